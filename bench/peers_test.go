package bench

import (
	"io"
	"os"
	"sync"

	mmapgo "github.com/edsrzf/mmap-go"
	"github.com/mmarinus/mmap"
	"github.com/tysonmote/gommap"
	expmmap "golang.org/x/exp/mmap"
	"golang.org/x/sys/unix"
)

// A mapper maps a part of a file, or opens another way to it, and leaves it to
// the caller that nobody touches what is unmapped.
type mapper func(f *os.File, off int64, size int, write bool) (mapped, error)

type mapped struct {
	memory []byte      // the part, or
	at     io.ReaderAt // what copies out of the whole file
	unmap  func() error
}

func mapUnsafe(f *os.File, off int64, size int, _ bool) (mapped, error) {
	m, err := mmap.Map[mmap.Read](mmap.File(f, off, size))
	return mapped{memory: m.UnsafeBytes(), unmap: m.Close}, err
}

func mapExp(f *os.File, _ int64, _ int, _ bool) (mapped, error) {
	r, err := expmmap.Open(f.Name())
	return mapped{at: r, unmap: r.Close}, err
}

func mapMmapGo(f *os.File, off int64, size int, write bool) (mapped, error) {
	prot := mmapgo.RDONLY
	if write {
		prot = mmapgo.RDWR
	}
	m, err := mmapgo.MapRegion(f, size, prot, 0, off)
	return mapped{memory: m, unmap: m.Unmap}, err
}

func mapGommap(f *os.File, off int64, size int, write bool) (mapped, error) {
	prot := gommap.PROT_READ
	if write {
		prot |= gommap.PROT_WRITE
	}
	m, err := gommap.MapRegion(f.Fd(), off, int64(size), prot, gommap.MAP_SHARED)
	return mapped{memory: m, unmap: m.UnsafeUnmap}, err
}

func mapUnix(f *os.File, off int64, size int, write bool) (mapped, error) {
	prot := unix.PROT_READ
	if write {
		prot |= unix.PROT_WRITE
	}
	m, err := unix.Mmap(int(f.Fd()), off, size, prot, unix.MAP_SHARED)
	return mapped{memory: m, unmap: func() error { return unix.Munmap(m) }}, err
}

func mapNothing(f *os.File, _ int64, _ int, _ bool) (mapped, error) {
	return mapped{at: f, unmap: func() error { return nil }}, nil
}

// A peer is one way to read a file, to which several goroutines may have access.
type peer struct {
	by   string
	open func(f *os.File) (*access, error)
}

type access struct {
	mapped
	use  func(func(memory []byte) error) error // makes it safe while the function runs
	held bool                                  // one use is enough for any amount of work
}

var readers = []peer{
	{"mmap-view", ours(func(m mmap.Read) (*access, error) { return view(m), nil })},
	{"mmap-pin", ours(func(m mmap.Read) (*access, error) {
		pin, err := m.Pin()
		use := func(f func([]byte) error) error {
			return mmap.Guard(func() error { return f(pin.Bytes()) }, pin)
		}
		return &access{mapped{unmap: func() error { pin.Unpin(); return m.Close() }}, use, true}, err
	})},
	{"mmap-ReadAt", ours(func(m mmap.Read) (*access, error) {
		use := func(f func([]byte) error) error { return f(nil) }
		return &access{mapped{at: m, unmap: m.Close}, use, true}, nil
	})},
	{"mmap-unsafe", bare(mapUnsafe)},
	{"exp", bare(mapExp)},
	{"exp+lock", locked(mapExp)},
	{"mmap-go", bare(mapMmapGo)},
	{"mmap-go+lock", locked(mapMmapGo)},
	{"gommap", bare(mapGommap)},
	{"gommap+lock", locked(mapGommap)},
	{"unix", bare(mapUnix)},
	{"unix+lock", locked(mapUnix)},
	{"pread", bare(mapNothing)},
}

func ours(how func(m mmap.Read) (*access, error)) func(*os.File) (*access, error) {
	return func(f *os.File) (*access, error) {
		m, err := mmap.Map[mmap.Read](mmap.Path(f.Name()))
		if err != nil {
			return nil, err
		}
		return how(m)
	}
}

func view(m mmap.Read) *access { return &access{mapped{unmap: m.Close}, m.View, false} }

// bare is a mapper's file without a lock.
func bare(open mapper) func(*os.File) (*access, error) {
	return func(f *os.File) (*access, error) {
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		m, err := open(f, 0, int(st.Size()), false)
		return &access{m, func(work func([]byte) error) error { return work(m.memory) }, true}, err
	}
}

// locked is bare with a lock that holds unmapping back while anyone reads.
func locked(open mapper) func(*os.File) (*access, error) {
	return func(f *os.File) (*access, error) {
		a, err := bare(open)(f)
		if err != nil {
			return nil, err
		}
		var mu sync.RWMutex
		m, closed := a.mapped, false
		a.held = false
		a.use = func(work func([]byte) error) error {
			mu.RLock()
			defer mu.RUnlock()
			if closed {
				return os.ErrClosed
			}
			return work(m.memory)
		}
		a.unmap = func() error {
			mu.Lock()
			defer mu.Unlock()
			closed = true
			return m.unmap()
		}
		return a, nil
	}
}

// each does n pieces of work, as a user of the peer would: each in a use of its
// own, or all in one where that is as safe.
func (a *access) each(n int, work func(memory []byte, i int) error) error {
	if a.held {
		return a.use(func(memory []byte) (err error) {
			for i := 0; i < n && err == nil; i++ {
				err = work(memory, i)
			}
			return err
		})
	}
	i := 0
	one := func(memory []byte) error { return work(memory, i) }
	for ; i < n; i++ {
		if err := a.use(one); err != nil {
			return err
		}
	}
	return nil
}

// block returns the bytes at off: in place, or in buf where the peer copies.
func (m *mapped) block(memory, buf []byte, off int64) ([]byte, error) {
	if m.at == nil {
		return memory[off : off+int64(len(buf))], nil
	}
	return m.copied(buf, off)
}

func (m *mapped) copied(buf []byte, off int64) ([]byte, error) {
	_, err := m.at.ReadAt(buf, off)
	return buf, err
}
