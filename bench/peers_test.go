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

// A mapped part of a file, or another way to it. It is for the caller to see to
// it that nobody touches what is unmapped.
type mapped struct {
	memory []byte      // the part, or
	at     io.ReaderAt // what copies out of it,
	base   int64       // where it starts
	unmap  func() error
}

// block returns the bytes at off: in place, or in buf where they are copied.
func (m *mapped) block(memory, buf []byte, off int64) []byte {
	if m.at == nil {
		return memory[off : off+int64(len(buf))]
	}
	return m.copied(buf, off)
}

func (m *mapped) copied(buf []byte, off int64) []byte {
	return buf[:must(m.at.ReadAt(buf, m.base+off))]
}

// A mapper makes one; prot is as in mmap(2).
type mapper func(f *os.File, off int64, size, prot int) mapped

var mappers = []struct {
	by    string
	open  mapper
	locks bool // whether a careful user needs a lock around it
}{
	{"mmap-ReadAt", mapReadAt, false},
	{"mmap-unsafe", mapUnsafe, false},
	{"exp", mapExp, true},
	{"mmap-go", mapMmapGo, true},
	{"gommap", mapGommap, true},
	{"unix", mapUnix, true},
	{"pread", mapNothing, false},
}

func mapReadAt(f *os.File, off int64, size, _ int) mapped {
	m := must(mmap.Map[mmap.Read](mmap.File(f, off, size)))
	return mapped{at: m, unmap: m.Close}
}

func mapUnsafe(f *os.File, off int64, size, _ int) mapped {
	m := must(mmap.Map[mmap.Read](mmap.File(f, off, size)))
	return mapped{memory: m.UnsafeBytes(), unmap: m.Close}
}

func mapExp(f *os.File, off int64, _, _ int) mapped {
	r := must(expmmap.Open(f.Name()))
	return mapped{at: r, base: off, unmap: r.Close}
}

func mapMmapGo(f *os.File, off int64, size, prot int) mapped {
	flag := mmapgo.RDONLY
	if prot&unix.PROT_WRITE != 0 {
		flag = mmapgo.RDWR
	}
	m := must(mmapgo.MapRegion(f, size, flag, 0, off))
	return mapped{memory: m, unmap: m.Unmap}
}

func mapGommap(f *os.File, off int64, size, prot int) mapped {
	m := must(gommap.MapRegion(f.Fd(), off, int64(size), gommap.ProtFlags(prot), gommap.MAP_SHARED))
	return mapped{memory: m, unmap: m.UnsafeUnmap}
}

func mapUnix(f *os.File, off int64, size, prot int) mapped {
	m := must(unix.Mmap(int(f.Fd()), off, size, prot, unix.MAP_SHARED))
	return mapped{memory: m, unmap: func() error { return unix.Munmap(m) }}
}

func mapNothing(f *os.File, off int64, _, _ int) mapped {
	return mapped{at: f, base: off, unmap: func() error { return nil }}
}

// A peer is one way to read a file, to which several goroutines may have access.
type peer struct {
	by   string
	open func(f *os.File) *access
}

type access struct {
	mapped
	use  func(func(memory []byte) error) error // makes it safe while the function runs
	held bool                                  // one use is enough for any amount of work
}

var readers = []peer{{"mmap-view", view(nil)}}

func init() {
	for _, m := range mappers {
		readers = append(readers, peer{m.by, bare(m.open)})
		if m.locks {
			readers = append(readers, peer{m.by + "+lock", locked(m.open)})
		}
	}
}

// view takes a view for each piece of work; with advice given before.
func view(advise func(m mmap.Read, n int) error) func(*os.File) *access {
	return func(f *os.File) *access {
		m := must(mmap.Map[mmap.Read](mmap.Path(f.Name())))
		if advise != nil {
			ok(advise(m, m.Len()))
		}
		return &access{mapped{unmap: m.Close}, m.View, false}
	}
}

// bare is a mapper's file without a lock.
func bare(open mapper) func(*os.File) *access {
	return func(f *os.File) *access {
		m := open(f, 0, int(must(f.Stat()).Size()), unix.PROT_READ)
		return &access{m, func(work func([]byte) error) error { return work(m.memory) }, true}
	}
}

// locked is bare with a lock that holds unmapping back while anyone reads. Later
// readers have no memory to touch.
func locked(open mapper) func(*os.File) *access {
	return func(f *os.File) *access {
		m := bare(open)(f).mapped
		var mu sync.RWMutex
		use := func(work func([]byte) error) error {
			mu.RLock()
			defer mu.RUnlock()
			return work(m.memory)
		}
		unmap := func() error {
			mu.Lock()
			defer mu.Unlock()
			m.memory = nil
			return m.unmap()
		}
		return &access{mapped{at: m.at, unmap: unmap}, use, false}
	}
}

// each does n pieces of work, as a user of the peer would: each in a use of its
// own, or all in one where that is as safe.
func (a *access) each(n int, work func(memory []byte, i int)) {
	i := 0
	use := func(memory []byte) error { work(memory, i); return nil }
	if a.held {
		use = func(memory []byte) error {
			for ; i < n; i++ {
				work(memory, i)
			}
			return nil
		}
	}
	for ; i < n; i++ {
		ok(a.use(use))
	}
}
