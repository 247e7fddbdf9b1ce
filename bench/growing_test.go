package bench

import (
	"os"
	"sync"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// A growing is a file that one goroutine appends to while others read what is
// there. After the file has grown, grow makes that accessible.
type growing struct {
	write, read func(p []byte, off int64) error
	grow        func(size int) error
	close       func() error
}

// A way to have one, for a file of size bytes that grows to limit at most.
type way struct {
	by   string
	open func(f *os.File, size, limit int) (growing, error)
}

var ways = []way{
	{"mmap-view", reserved(func(m mmap.ReadWrite, p []byte, off int64) error {
		return m.View(func(b []byte) error { copy(p, b[off:]); return nil })
	})},
	{"mmap-ReadAt", reserved(func(m mmap.ReadWrite, p []byte, off int64) error { return second(m.ReadAt(p, off)) })},
	{"exp+lock", remapped(mapExp, false)},
	{"mmap-go+lock", remapped(mapMmapGo, false)},
	{"mmap-go+lock+swap", remapped(mapMmapGo, true)},
	{"gommap+lock", remapped(mapGommap, false)},
	{"unix+lock", remapped(mapUnix, false)},
	{"unix-ahead", ahead},
	{"pread", unmapped},
}

// reserved grows a mapping within its reserve. It never moves, so that readers
// have no lock.
func reserved(read func(m mmap.ReadWrite, p []byte, off int64) error) func(*os.File, int, int) (growing, error) {
	return func(f *os.File, size, limit int) (growing, error) {
		m, err := mmap.Map[mmap.ReadWrite](mmap.File(f, 0, size).Shared().Reserve(limit))
		return growing{
			write: func(p []byte, off int64) error { return second(m.WriteAt(p, off)) },
			read:  func(p []byte, off int64) error { return read(m, p, off) },
			grow:  func(size int) error { return mmap.Grow(m, size) },
			close: m.Close,
		}, err
	}
}

// remapped unmaps and maps again; or, with swap, maps again first, and unmaps
// once no reader can be there. Readers hold a lock: bare, they would touch what
// is unmapped. The writer needs none to write, for only it changes the mapping;
// x/exp/mmap cannot write, so it writes to the file.
func remapped(open mapper, swap bool) func(*os.File, int, int) (growing, error) {
	return func(f *os.File, size, _ int) (growing, error) {
		var mu sync.RWMutex
		m, err := open(f, 0, size, true)
		return growing{
			write: func(p []byte, off int64) error {
				if m.memory == nil {
					return second(f.WriteAt(p, off))
				}
				copy(m.memory[off:], p)
				return nil
			},
			read: func(p []byte, off int64) error {
				mu.RLock()
				defer mu.RUnlock()
				if m.memory == nil {
					return second(m.at.ReadAt(p, off))
				}
				copy(p, m.memory[off:])
				return nil
			},
			grow: func(size int) (err error) {
				if !swap {
					mu.Lock()
					defer mu.Unlock()
					if err = m.unmap(); err == nil {
						m, err = open(f, 0, size, true)
					}
					return err
				}
				next, err := open(f, 0, size, true)
				if err != nil {
					return err
				}
				mu.Lock()
				old := m
				m = next
				mu.Unlock()
				return old.unmap()
			},
			close: func() error { return m.unmap() },
		}, err
	}
}

// ahead maps at once all that the file can grow to. That takes no lock, and gives
// no error: to touch what the file does not have yet ends the program.
func ahead(f *os.File, _, limit int) (growing, error) {
	m, err := unix.Mmap(int(f.Fd()), 0, limit, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return growing{
		write: func(p []byte, off int64) error { copy(m[off:], p); return nil },
		read:  func(p []byte, off int64) error { copy(p, m[off:]); return nil },
		grow:  func(int) error { return nil },
		close: func() error { return unix.Munmap(m) },
	}, err
}

func unmapped(f *os.File, _, _ int) (growing, error) {
	return growing{
		write: func(p []byte, off int64) error { return second(f.WriteAt(p, off)) },
		read:  func(p []byte, off int64) error { return second(f.ReadAt(p, off)) },
		grow:  func(int) error { return nil },
		close: func() error { return nil },
	}, nil
}
