//go:build linux

package mmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/leftover"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

var everyFault = flag.Bool("everyfault", false, "TestInjectedFaults fails every call of an operation, and not only the first, the second and the last")

// An operation of the library. prepare makes what it needs, and returns it.
type operation struct {
	name    string
	says    string // what its errors begin with
	prepare func(b *bed) func() error
}

// A bed is what one operation works on.
type bed struct {
	t     testing.TB
	f     *os.File  // of eight pages
	was   []mapping // what is to be unchanged if the operation fails
	made  []mapping // what it made
	after []func()  // undoes the rest of what prepare did
	stays bool      // what it does cannot be undone
}

// on registers a mapping to work on, with contents of its own in every page.
func on[M mapping](b *bed, m M) M {
	b.was = append(b.was, m)
	if w, ok := any(m).(io.WriterAt); ok {
		for off := 0; off < m.Len(); off += int(pageSize) {
			w.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(off+1))[:min(8, m.Len()-off)], int64(off))
		}
	}
	return m
}

// got registers what an operation made.
func (b *bed) got(m mapping, err error) error {
	if err == nil {
		b.made = append(b.made, m)
	}
	return err
}

// gotFile closes a file that an operation made.
func (b *bed) gotFile(f *os.File, err error) error {
	if err == nil {
		f.Close()
	}
	return err
}

// quilt maps five pages that the kernel has as many areas for.
func (b *bed) quilt() Unknown {
	pg := int(pageSize)
	u := on(b, must(MapUnknown(Anonymous(5*pg).At(spot(b.t, 16)+4*pageSize), ProtRead|ProtWrite)))
	check(b.t, u.Place(pg, File(b.f, int64(pg), pg).Shared(), ProtRead))
	check(b.t, u.ProtectRange(2*pg, pg, ProtNone))
	check(b.t, u.LockOnFault(3*pg, pg))
	check(b.t, u.ProtectRange(4*pg, pg, ProtRead|ProtWrite|ProtExec))
	return u
}

// wall maps the page behind a mapping, so that it cannot grow there.
func (b *bed) wall(m mapping) {
	w := must(Map[None](Anonymous(1).At(page(m.Addr() + uintptr(m.Cap()) + pageSize - 1))))
	b.after = append(b.after, func() { w.Close() })
}

// cut makes a file of three pages and cuts it off after half of one, when it is
// mapped.
func (b *bed) cut(p Prot, s func(Spec) Spec) Unknown {
	pg := int(pageSize)
	f := must(os.CreateTemp(filepath.Dir(b.f.Name()), "cut"))
	b.after = append(b.after, func() { f.Close(); os.Remove(f.Name()) })
	check(b.t, f.Truncate(int64(3*pg)))
	u := must(MapUnknown(s(File(f, 0, 3*pg)), p))
	b.was = append(b.was, u)
	check(b.t, f.Truncate(int64(pg)/2))
	return u
}

// faulting makes an operation of an access that is to stop at off, with one of the
// causes: it succeeds if that is so.
func faulting(n int, err error, off int, causes ...error) error {
	var fault *FaultError
	if errors.As(err, &fault) && (fault.Offset != off || n >= 0 && n != off || !slices.Contains(causes, fault.Err)) {
		return fmt.Errorf("another fault, after %d bytes: %w", n, err)
	} else if fault != nil {
		return nil
	}
	return err
}

// prefaulting is faulting for what asks the kernel which page is bad, and believes it
// where it says that the first one is.
func prefaulting(err error) error {
	if fault := (*FaultError)(nil); errors.As(err, &fault) && fault.Offset == 0 {
		return faulting(-1, err, 0, ErrFault)
	}
	return faulting(-1, err, int(pageSize), ErrTruncated, ErrFault)
}

// operations are all that make system calls, and some that make none.
func operations(t testing.TB) (ops []operation) {
	pg := int(pageSize)
	add := func(name, says string, prepare func(b *bed) func() error) {
		ops = append(ops, operation{name, says, prepare})
	}
	// Every kind of Spec.
	specs := []struct {
		name string
		spec func(b *bed) Spec
	}{
		{"anonymous", func(*bed) Spec { return Anonymous(3 * pg) }},
		{"shared", func(*bed) Spec { return Anonymous(3 * pg).Shared() }},
		{"file", func(b *bed) Spec { return File(b.f, int64(pg), 3*pg) }},
		{"shared file", func(b *bed) Spec { return File(b.f, 7, 3*pg).Shared() }},
		{"descriptor", func(b *bed) Spec { return FD(int(b.f.Fd()), 0, pg) }},
		{"path", func(b *bed) Spec { return Path(b.f.Name()) }},
		{"shared path", func(b *bed) Spec { return Path(b.f.Name()).Shared() }},
		{"secret", func(*bed) Spec { return Secret(2 * pg) }},
		{"secret with a reserve", func(*bed) Spec { return Secret(pg).Reserve(3 * pg) }},
		{"near", func(b *bed) Spec { return Anonymous(pg).Near(spot(b.t, 4)) }},
		{"at", func(b *bed) Spec { return Anonymous(pg).At(spot(b.t, 4)) }},
		{"onto", func(b *bed) Spec {
			at := spot(b.t, 4)
			must(sys.Mmap(at, 2*pageSize, unix.PROT_READ, place.Holding, -1, 0))
			b.after = append(b.after, func() { sys.Munmap(at, 2*pageSize) })
			return Anonymous(2 * pg).UnsafeOnto(at)
		}},
		{"aligned", func(*bed) Spec { return Anonymous(pg).Align(64 * mib) }},
		{"aligned file", func(b *bed) Spec { return File(b.f, 0, pg).Align(64 * mib) }},
		{"reserve", func(*bed) Spec { return Anonymous(pg).Reserve(4 * pg) }},
		{"reserve, empty", func(*bed) Spec { return Anonymous(0).Reserve(4 * pg) }},
		{"reserve of a file", func(b *bed) Spec { return File(b.f, 5, pg).Shared().Reserve(4 * pg) }},
		{"populated", func(*bed) Spec { return Anonymous(2 * pg).Populate() }},
		{"populated with a reserve", func(*bed) Spec { return Anonymous(pg).Populate().Reserve(3 * pg) }},
		{"populated from the cache", func(b *bed) Spec { return File(b.f, 0, 2*pg).PopulateCached() }},
		{"locked", func(*bed) Spec { return Anonymous(2 * pg).Lock() }},
		{"locked with a reserve", func(*bed) Spec { return Anonymous(pg).Lock().Reserve(3 * pg) }},
		{"locked on fault", func(b *bed) Spec { return File(b.f, 0, 2*pg).LockOnFault() }},
		{"not reserved", func(*bed) Spec { return Anonymous(2 * pg).NoReserve() }},
		{"low", func(*bed) Spec { return Anonymous(2 * pg).Low() }},
		{"droppable", func(*bed) Spec { return Anonymous(2 * pg).Droppable() }},
		{"synchronous", func(b *bed) Spec { return File(b.f, 0, pg).Shared().Synchronous() }},
	}
	for _, s := range specs {
		add("map "+s.name, "map ", func(b *bed) func() error {
			spec := s.spec(b)
			return func() error { return b.got(Map[ReadWrite](spec)) }
		})
	}
	add("map unknown", "map ", func(b *bed) func() error {
		return func() error { return b.got(MapUnknown(File(b.f, 9, 2*pg), ProtRead)) }
	})
	add("map executable", "map ", func(b *bed) func() error {
		return func() error { return b.got(Map[ReadExec](Anonymous(pg))) }
	})

	// Transitions.
	add("protect", "protect as r--", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](Anonymous(3*pg))))
		return func() error { return b.got(Protect[Read](m)) }
	})
	add("protect, reserve", "protect as r-x", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](Anonymous(pg).Reserve(4*pg))))
		return func() error { return b.got(Protect[ReadExec](m)) }
	})
	add("protect several areas", "protect as r--", func(b *bed) func() error {
		u := b.quilt()
		return func() error { return b.got(Protect[Read](u)) }
	})
	add("unknown protect", "protect ", func(b *bed) func() error {
		u := b.quilt()
		return func() error { return u.Protect(ProtRead) }
	})
	add("protect a range", "protect ", func(b *bed) func() error {
		u := b.quilt()
		return func() error { return u.ProtectRange(pg, 3*pg, ProtNone) }
	})
	overs := map[string]func(b *bed) Spec{
		"anonymous": func(*bed) Spec { return Anonymous(3 * pg) }, "file": func(b *bed) Spec { return File(b.f, 0, 3*pg) },
		"shared file": func(b *bed) Spec { return FD(int(b.f.Fd()), int64(pg), 3*pg).Shared() }, "locked": func(*bed) Spec { return Anonymous(3 * pg).Lock() },
		"populated": func(*bed) Spec { return Anonymous(3 * pg).Populate() }, "secret": func(*bed) Spec { return Secret(3 * pg) },
	}
	for name, s := range overs {
		add("over by "+name, "map ", func(b *bed) func() error {
			m := on(b, must(Map[ReadWrite](Anonymous(3*pg))))
			return func() error { return b.got(Over[ReadWrite](m, s(b))) }
		})
		add("over with a reserve by "+name, "map ", func(b *bed) func() error {
			m := on(b, must(Map[ReadWrite](Anonymous(3*pg).Reserve(5*pg))))
			return func() error { return b.got(Over[ReadWrite](m, s(b))) }
		})
		add("place "+name, "place ", func(b *bed) func() error {
			u := on(b, must(MapUnknown(Anonymous(5*pg), ProtRead|ProtWrite)))
			return func() error { return u.Place(pg, s(b), ProtRead) }
		})
	}
	add("over several areas", "map ", func(b *bed) func() error {
		u := b.quilt()
		return func() error { return b.got(Over[Read](u, File(b.f, 0, 5*pg))) }
	})
	add("place onto several areas", "place ", func(b *bed) func() error {
		u := b.quilt()
		return func() error { return u.Place(0, Anonymous(4*pg), ProtRead|ProtWrite) }
	})
	resizes := []struct {
		name string
		from func(b *bed) mapping
		to   int
	}{
		{"longer", func(b *bed) mapping { return on(b, must(Map[ReadWrite](Anonymous(2*pg)))) }, 5 * pg},
		{"longer, moves", func(b *bed) mapping {
			m := on(b, must(Map[ReadWrite](Anonymous(2*pg).At(spot(t, 4)))))
			b.wall(m)
			return m
		}, 5 * pg},
		{"longer, locked", func(b *bed) mapping { return on(b, must(Map[ReadWrite](Anonymous(2*pg).Lock()))) }, 5 * pg},
		{"longer, file", func(b *bed) mapping { return on(b, must(Map[ReadWrite](File(b.f, 0, 2*pg).Shared()))) }, 5 * pg},
		{"longer from nothing", func(b *bed) mapping { return on(b, must(Map[ReadWrite](Anonymous(0).Lock()))) }, 2 * pg},
		{"longer, several areas", func(b *bed) mapping { u := b.quilt(); b.wall(u); return u }, 7 * pg},
		{"longer within the reserve", func(b *bed) mapping { return on(b, must(Map[ReadWrite](Anonymous(pg).Reserve(5*pg)))) }, 3 * pg},
		{"longer within the locked reserve", func(b *bed) mapping { return on(b, must(Map[ReadWrite](Anonymous(pg).Lock().Reserve(5*pg)))) }, 3 * pg},
		{"longer than the reserve", func(b *bed) mapping { return on(b, must(Map[ReadWrite](Anonymous(pg).Reserve(3*pg)))) }, 6 * pg},
		{"shorter", func(b *bed) mapping { return on(b, must(Map[ReadWrite](Anonymous(5*pg)))) }, pg + 1},
		{"shorter, several areas", func(b *bed) mapping { return b.quilt() }, 2 * pg},
		{"to nothing", func(b *bed) mapping { return on(b, must(Map[ReadWrite](Anonymous(5*pg).Reserve(6*pg)))) }, 0},
	}
	for _, c := range resizes {
		add("resize "+c.name, "resize to ", func(b *bed) func() error {
			switch m := c.from(b).(type) {
			case Unknown:
				return func() error { return b.got(Resize(m, c.to)) }
			case ReadWrite:
				return func() error { return b.got(Resize(m, c.to)) }
			}
			panic("another type")
		})
	}
	for name, s := range map[string]func(b *bed) Spec{
		"anonymous": func(*bed) Spec { return Anonymous(pg) }, "file": func(b *bed) Spec { return File(b.f, 3, pg) }, "locked": func(*bed) Spec { return Anonymous(pg).Lock() },
		"locked on fault": func(*bed) Spec { return Anonymous(pg).LockOnFault() }, "shared": func(*bed) Spec { return Anonymous(pg).Shared() },
	} {
		add("grow "+name, "grow to ", func(b *bed) func() error {
			m := on(b, must(Map[ReadWrite](s(b).Reserve(5*pg))))
			return func() error { return Grow(m, 4*pg) }
		})
	}
	add("move", "move to ", func(b *bed) func() error {
		m, to := on(b, must(Map[ReadWrite](Anonymous(3*pg).Reserve(4*pg)))), spot(t, 8)
		return func() error { return b.got(Move(m, to)) }
	})
	add("move several areas", "move to ", func(b *bed) func() error {
		u, to := b.quilt(), spot(t, 8)
		return func() error { return b.got(Move(u, to)) }
	})
	add("forget, split, join, release", "", func(b *bed) func() error {
		m := must(Map[ReadWrite](Anonymous(3 * pg)))
		return func() error {
			u, err := Forget(m)
			check(t, err)
			l, r, err := Split(u, pg)
			check(t, err)
			u, err = Join(l, r)
			check(t, err)
			at, size, err := u.Release()
			b.after = append(b.after, func() { sys.Munmap(at, uintptr(size)) })
			return err
		}
	})
	add("close the middle part", "unmap ", func(b *bed) func() error {
		m := must(Map[ReadWrite](Anonymous(3 * pg)))
		left, rest, err := Split(m, pg)
		check(t, err)
		middle, right, err := Split(rest, pg)
		check(t, err)
		for _, m := range []ReadWrite{left, middle, right} {
			on(b, m)
		}
		return middle.Close
	})
	add("assert", "assert rw-", func(b *bed) func() error {
		u := on(b, must(MapUnknown(Anonymous(3*pg), ProtRead|ProtWrite)))
		return func() error { return b.got(Assert[ReadWrite](u)) }
	})
	add("adopt", "adopt ", func(b *bed) func() error {
		at, size, err := must(Map[ReadWrite](Anonymous(3 * pg))).Release()
		check(t, err)
		b.after = append(b.after, func() { sys.Munmap(at, uintptr(size)) })
		return func() error { return b.got(UnsafeAdopt[ReadWrite](at, size)) }
	})
	add("adopt several areas", "adopt ", func(b *bed) func() error {
		u := b.quilt()
		at, size, err := u.Release()
		check(t, err)
		b.after = append(b.after, func() { sys.Munmap(at, uintptr(size)) })
		return func() error { return b.got(UnsafeAdopt[Unknown](at, size)) }
	})
	add("regions", "regions of ", func(b *bed) func() error {
		u := b.quilt()
		return func() error {
			regions, err := u.Regions()
			if err == nil && len(regions) != 5 {
				return fmt.Errorf("%d regions", len(regions))
			}
			return err
		}
	})
	add("close", "unmap ", func(b *bed) func() error { return on(b, must(Map[ReadWrite](Anonymous(3*pg)))).Close })
	add("close under a pin", "unmap ", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](Anonymous(3*pg))))
		pin := must(m.Pin())
		check(t, m.Close())
		return func() error {
			pin.Unpin()
			if err := m.Close(); !errors.Is(err, ErrClosed) {
				return err
			}
			return nil
		}
	})
	add("collection", "", func(b *bed) func() error {
		m := must(Map[ReadWrite](Anonymous(3 * pg)))
		graduate()
		runtime.SetFinalizer(m.r, nil)
		r, at := m.r, m.Addr()
		b.after = append(b.after, func() { r = nil; collected(b.t, at) })
		return func() error { r.collect(); return nil }
	})

	// Ranges.
	ranges := []struct {
		name, says string
		do         func(m ReadWrite) error
	}{
		{"lock", "lock of ", func(m ReadWrite) error { return m.Lock(0, 2*pg) }},
		{"lock on fault", "lock on fault of ", func(m ReadWrite) error { return m.LockOnFault(0, 2*pg) }},
		{"unlock", "unlock of ", func(m ReadWrite) error { return m.Unlock(0, 2*pg) }},
		{"sync", "sync of ", func(m ReadWrite) error { return m.Sync(0, 2*pg) }},
		{"start of sync", "start of sync of ", func(m ReadWrite) error { return m.StartSync(0, 2*pg) }},
		{"invalidate", "invalidation of ", func(m ReadWrite) error { return m.Invalidate(0, 2*pg) }},
		{"prefault", "MADV_POPULATE_READ of ", func(m ReadWrite) error { return m.Prefault(0, 3*pg) }},
		{"prefault for writing", "MADV_POPULATE_WRITE of ", func(m ReadWrite) error { return m.PrefaultWrite(0, 3*pg) }},
		{"discard", "MADV_DONTNEED of ", func(m ReadWrite) error { return m.Discard(pg, pg) }},
		{"discard locked", "MADV_DONTNEED_LOCKED of ", func(m ReadWrite) error { return m.DiscardLocked(pg, pg) }},
		{"free", "MADV_FREE of ", func(m ReadWrite) error { return m.Free(pg, pg) }},
		{"wipe on fork", "MADV_WIPEONFORK of ", func(m ReadWrite) error { return m.WipeOnFork(pg, pg) }},
		{"install guard pages", "MADV_GUARD_INSTALL of ", func(m ReadWrite) error { return m.InstallGuardPages(pg, pg) }},
		{"remove guard pages", "MADV_GUARD_REMOVE of ", func(m ReadWrite) error { return m.RemoveGuardPages(pg, pg) }},
		{"resident", "residency of ", func(m ReadWrite) error { return second(m.Resident(0, 3*pg)) }},
		{"resident pages", "residency of ", func(m ReadWrite) error { return second(m.ResidentPages(0, 3*pg)) }},
		{"policy", "policy of ", func(m ReadWrite) error { return m.SetPolicy(0, 2*pg, PolicyBind, 0) }},
		{"nodes", "nodes of ", func(m ReadWrite) error { return second(m.Nodes(0, 3*pg)) }},
		{"name", "name ", func(m ReadWrite) error { return m.SetName("injected") }},
	}
	for a := range Advice(len(adviceNames)) {
		if name := adviceNames[a]; name != "" {
			ranges = append(ranges, struct {
				name, says string
				do         func(m ReadWrite) error
			}{"advise " + name, name + " of ", func(m ReadWrite) error { return m.Advise(0, 2*pg, a) }})
		}
	}
	for _, c := range ranges {
		add(c.name, c.says, func(b *bed) func() error {
			m := on(b, must(Map[ReadWrite](Anonymous(3*pg))))
			return func() error { return c.do(m) }
		})
	}
	add("sync of a file", "sync of ", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](File(b.f, 0, 3*pg).Shared())))
		return func() error { return m.Sync(0, 3*pg) }
	})
	add("punch", "MADV_REMOVE of ", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](Anonymous(3*pg).Shared())))
		return func() error { return m.Punch(pg, pg) }
	})
	add("collapse", "MADV_COLLAPSE of ", func(b *bed) func() error {
		huge := int(number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", ""))
		if huge == 0 {
			return func() error { return fmt.Errorf("no transparent huge pages: %w", errors.ErrUnsupported) }
		}
		m := must(Map[ReadWrite](Anonymous(huge).Align(huge)))
		b.was = append(b.was, m)
		check(t, second(m.WriteAt([]byte{1}, 0)))
		return func() error { return m.Collapse(0, huge) }
	})
	add("prefault past the end of the file", "MADV_POPULATE_READ of ", func(b *bed) func() error {
		u := b.cut(ProtRead, Spec.Shared)
		return func() error { return prefaulting(u.Prefault(0, 3*pg)) }
	})
	add("lock past the end of the file", "lock of ", func(b *bed) func() error {
		u := b.cut(ProtRead|ProtWrite, Spec.Shared)
		return func() error { return prefaulting(u.Lock(0, 3*pg)) }
	})
	add("seal", "seal", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](Anonymous(pg))))
		b.stays = true
		return m.Seal
	})

	trackOperations(add)

	// Accesses whose cause is to be found.
	add("read past the end of the file", "", func(b *bed) func() error {
		u := b.cut(ProtRead, Spec.Shared)
		return func() error {
			n, err := u.ReadAt(make([]byte, 3*pg), 0)
			return faulting(n, err, pg, ErrTruncated, ErrFault)
		}
	})
	add("write past the end of the file", "", func(b *bed) func() error {
		u := b.cut(ProtRead|ProtWrite, Spec.Shared)
		return func() error {
			n, err := u.WriteAt(make([]byte, 3*pg), 0)
			return faulting(n, err, pg, ErrTruncated, ErrFault)
		}
	})
	add("store into what can be read", "", func(b *bed) func() error {
		m := on(b, must(Map[Read](File(b.f, 0, 2*pg))))
		return func() error {
			err := m.View(func(p []byte) error { p[pg] = 1; return nil })
			return faulting(-1, err, pg, ErrPermission, ErrFault)
		}
	})
	add("read a guard page", "", func(b *bed) func() error {
		if err := Probe("MADV_GUARD_INSTALL"); err != nil {
			return func() error { return err }
		}
		m := on(b, must(Map[ReadWrite](Anonymous(3*pg))))
		check(t, m.InstallGuardPages(pg, pg))
		return func() error {
			n, err := m.ReadAt(make([]byte, 3*pg), 0)
			return faulting(n, err, pg, ErrGuard, ErrFault)
		}
	})

	// Files.
	for name, seals := range map[string]Seal{"memfd": 0, "sealed memfd": SealShrink | SealGrow, "memfd that cannot be executed": SealExec | SealFutureWrite} {
		add(name, "memfd ", func(b *bed) func() error {
			return func() error { return b.gotFile(Memfd("injected", int64(pg), seals)) }
		})
	}
	add("add seals", "add seals ", func(b *bed) func() error {
		f := must(Memfd("injected", int64(pg), 0))
		b.after = append(b.after, func() { f.Close() })
		return func() error { return AddSeals(f, SealWrite) }
	})
	add("allocate", "allocate ", func(b *bed) func() error {
		f := must(Memfd("injected", int64(pg), 0))
		b.after = append(b.after, func() { f.Close() })
		return func() error { return Allocate(f, 0, int64(3*pg)) }
	})
	add("table of areas", "table: ", func(b *bed) func() error {
		u := b.quilt()
		return func() error {
			table, err := procmaps.Open(0)
			if err == nil {
				_, _, err = table.At(uint64(u.Addr()))
				for _, wrong := range table.Regions() {
					err = errors.Join(err, wrong)
				}
				table.Close()
			}
			if err != nil {
				err = fmt.Errorf("mmap: table: %w", err)
			}
			return err
		}
	})
	for i := range kernel.Features {
		f := &kernel.Features[i]
		name := strings.Fields(f.Names)[0]
		add("probe "+name, "probe "+name, func(b *bed) func() error {
			b.after = append(b.after, f.Forget())
			return func() error {
				if err := Probe(name); !errors.Is(err, errors.ErrUnsupported) {
					return err
				}
				return nil
			}
		})
	}
	return ops
}

// hugeOperations are those that differ with huge pages.
func hugeOperations(size int) (ops []operation) {
	add := func(name, says string, prepare func(b *bed) func() error) {
		ops = append(ops, operation{name, says, prepare})
	}
	one := Anonymous(size).HugePages(0)
	for name, s := range map[string]Spec{"map huge": one, "map huge, locked": one.Lock(), "map huge, aligned": one.Align(2 * size), "map huge with a reserve": one.Reserve(3 * size),
		"map huge, populated, with a reserve": one.Populate().Reserve(3 * size), "map huge, locked, with a reserve": one.Lock().Reserve(3 * size)} {
		add(name, "map ", func(b *bed) func() error { return func() error { return b.got(Map[ReadWrite](s)) } })
	}
	for name, s := range map[string]Spec{"grow huge": one, "grow huge, locked": one.Lock()} {
		add(name, "grow to ", func(b *bed) func() error {
			m := on(b, must(Map[ReadWrite](s.Reserve(3*size))))
			return func() error { return Grow(m, 2*size) }
		})
	}
	add("over by huge", "map ", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](Anonymous(size).Align(size))))
		return func() error { return b.got(Over[ReadWrite](m, one)) }
	})
	add("place huge", "place ", func(b *bed) func() error {
		u := on(b, must(MapUnknown(Anonymous(2*size).Align(size), ProtRead|ProtWrite)))
		return func() error { return u.Place(size, one, ProtRead) }
	})
	add("protect huge", "protect as r--", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](one)))
		return func() error { return b.got(Protect[Read](m)) }
	})
	add("move huge", "move to ", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](one)))
		to := (spot(b.t, 2*size/int(pageSize)) + uintptr(size) - 1) &^ uintptr(size-1)
		return func() error { return b.got(Move(m, to)) }
	})
	add("close huge", "unmap ", func(b *bed) func() error { return on(b, must(Map[ReadWrite](one))).Close })
	add("memfd huge", "memfd ", func(b *bed) func() error {
		return func() error { return b.gotFile(MemfdHuge("injected", int64(size), SealShrink, 0)) }
	})
	add("map a huge memfd", "map ", func(b *bed) func() error {
		f := must(MemfdHuge("injected", int64(size), 0, 0))
		b.after = append(b.after, func() { f.Close() })
		return func() error { return b.got(Map[ReadWrite](File(f, 0, size/2).Shared())) }
	})
	return ops
}

// A call is a system call that the library makes, and the errnos of its man page,
// and those besides that it is known to answer.
type call struct {
	name   string
	errnos string
}

// calls are those, by number.
func calls() map[uintptr]call {
	const opening = "EACCES EBADF EBUSY EDQUOT EEXIST EFAULT EFBIG EINTR EINVAL EISDIR ELOOP EMFILE ENAMETOOLONG ENFILE ENODEV ENOENT ENOMEM ENOSPC ENOTDIR ENXIO EOPNOTSUPP EOVERFLOW EPERM EROFS ETXTBSY EWOULDBLOCK"
	const locks = "EAGAIN EINVAL ENOMEM EPERM"
	const reads = "EAGAIN EBADF EFAULT EINTR EINVAL EIO EISDIR"
	const stats = "EACCES EBADF EFAULT EINVAL ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EOVERFLOW"
	const limits = "EFAULT EINVAL EPERM ESRCH"
	all := map[uintptr]call{
		unix.SYS_MREMAP:   {"mremap", "EAGAIN EFAULT EINVAL ENOMEM EPERM"}, // EPERM of sealed pages, as with the next three
		unix.SYS_MUNMAP:   {"munmap", "EINVAL ENOMEM EPERM"},
		unix.SYS_MPROTECT: {"mprotect", "EACCES EFAULT EINVAL ENOMEM EPERM"},
		unix.SYS_MADVISE:  {"madvise", "EACCES EAGAIN EBADF EBUSY EFAULT EHWPOISON EINTR EINVAL EIO ENOMEM EPERM"},
		unix.SYS_MSYNC:    {"msync", "EBUSY EINTR EINVAL EIO ENOMEM ENOSPC"}, // of the file system
		unix.SYS_MLOCK:    {"mlock", locks}, unix.SYS_MLOCK2: {"mlock2", locks}, unix.SYS_MUNLOCK: {"munlock", locks},
		unix.SYS_MINCORE:          {"mincore", "EAGAIN EFAULT EINVAL ENOMEM"},
		unix.SYS_MBIND:            {"mbind", "EFAULT EINVAL EIO ENOMEM EPERM"},
		unix.SYS_MOVE_PAGES:       {"move_pages", "E2BIG EACCES EFAULT EINVAL ENODEV EPERM ESRCH"},
		unix.SYS_MEMFD_CREATE:     {"memfd_create", "EFAULT EINVAL EMFILE ENFILE ENOMEM EACCES"}, // EACCES of vm.memfd_noexec
		unix.SYS_USERFAULTFD:      {"userfaultfd", "EINVAL EMFILE ENFILE ENOMEM ENOSYS EPERM"},   // EPERM of a filter
		447:                       {"memfd_secret", "EINVAL EMFILE ENFILE ENOMEM ENOSYS"},
		462:                       {"mseal", "EINVAL ENOMEM EPERM"},
		unix.SYS_FALLOCATE:        {"fallocate", "EBADF EFBIG EINTR EINVAL EIO ENODEV ENOSPC ENOSYS EOPNOTSUPP EPERM ESPIPE ETXTBSY"},
		unix.SYS_FCNTL:            {"fcntl", "EACCES EAGAIN EBADF EBUSY EDEADLK EFAULT EINTR EINVAL EMFILE ENOLCK ENOTDIR EPERM"},
		unix.SYS_FSTAT:            {"fstat", stats},
		unix.SYS_FSTATFS:          {"fstatfs", "EACCES EBADF EFAULT EINTR EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOSYS ENOTDIR EOVERFLOW"},
		unix.SYS_FTRUNCATE:        {"ftruncate", "EACCES EBADF EFAULT EFBIG EINTR EINVAL EIO EISDIR EPERM EROFS ETXTBSY"},
		unix.SYS_OPENAT:           {"openat", opening},
		unix.SYS_READ:             {"read", reads},
		unix.SYS_PROCESS_VM_READV: {"process_vm_readv", "EFAULT EINVAL ENOMEM EPERM ESRCH"},
		unix.SYS_PREAD64:          {"pread64", reads + " ENXIO EOVERFLOW ESPIPE"},
		unix.SYS_CLOSE:            {"close", "EBADF EDQUOT EINTR EIO ENOSPC"},
		unix.SYS_IOCTL:            {"ioctl", "EBADF EFAULT EINVAL ENOTTY E2BIG ENAMETOOLONG ENOMEM ESRCH"}, // the last four of PROCMAP_QUERY
		unix.SYS_PRCTL:            {"prctl", "EACCES EBADF EBUSY EFAULT EINVAL ENODEV ENOMEM ENXIO EOPNOTSUPP EPERM ERANGE"},
		unix.SYS_CAPGET:           {"capget", limits}, unix.SYS_PRLIMIT64: {"getrlimit", limits},
		unix.SYS_EPOLL_CTL: {"epoll_ctl", "EBADF EEXIST EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM"},
	}
	others := func(name, errnos string, numbers ...uintptr) {
		for _, n := range numbers {
			all[n] = call{name, errnos}
		}
	}
	mmap, stat, limit := []uintptr{222}, []uintptr{79}, uintptr(163) // arm64, riscv64 and loong64
	switch runtime.GOARCH {
	case "amd64":
		mmap, stat, limit = []uintptr{9}, []uintptr{262}, 97
	case "s390x":
		mmap, stat, limit = []uintptr{90}, []uintptr{106, 293}, 191
	case "ppc64le":
		mmap, stat, limit = []uintptr{90}, []uintptr{106, 291}, 76
	case "386", "arm": // mmap2, and what ends in 64
		mmap, stat, limit = []uintptr{192}, []uintptr{195, 300, 327}, 191
		others("fstat", stats, 197)
		others("fcntl", all[unix.SYS_FCNTL].errnos, 221)
		others("ftruncate", all[unix.SYS_FTRUNCATE].errnos, 194)
		others("fstatfs", all[unix.SYS_FSTATFS].errnos, 267, 269)
	}
	others("getrlimit", limits, limit)
	others("mmap", "EACCES EAGAIN EBADF EEXIST EINVAL ENFILE ENODEV ENOMEM EOPNOTSUPP EOVERFLOW EPERM ETXTBSY", mmap...)
	others("fstatat", stats, stat...)
	return all
}

// A trial fails one call of an operation.
type trial struct {
	op     *operation
	number uintptr
	call   string
	errno  syscall.Errno
	at     int // which of the calls of that number, from 1
	how    int
}

func (c trial) String() string {
	return fmt.Sprintf("%s, %s #%d %s %s", c.op.name, c.call, c.at, unix.ErrnoName(c.errno), [...]string{"", "once", "onwards", "and everything after"}[c.how])
}

// An injector runs operations on the filtered thread.
type injector struct {
	t       testing.TB
	f       *os.File
	mem     *os.File
	work    chan func()
	buf     []byte // of glance
	calls   map[uintptr]call
	excuses map[int]int // how often each was needed

	operations, trials int
	called, errnos     map[string]bool // the calls, and the calls with errnos, that were failed
}

// run runs f on the filtered thread, with a call failing as asked, and returns how
// many were failed.
func (j *injector) run(c trial, f func() error) (failed int, err error) {
	done := make(chan struct{})
	j.work <- func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
			n, _, _ := unix.RawSyscall(ctl, disarm, 0, 0)
			failed = int(n)
		}()
		unix.RawSyscall6(ctl, arm, c.number, uintptr(c.errno), uintptr(c.at), uintptr(c.how), 0)
		err = f()
	}
	<-done
	return failed, err
}

// seen returns the calls that were made while the last run lasted.
func (j *injector) seen() (numbers []uintptr) {
	done := make(chan struct{})
	j.work <- func() {
		defer close(done)
		for i := uintptr(0); ; i++ {
			n, _, e := unix.RawSyscall(ctl, nth, i, 0)
			if e != 0 {
				return
			}
			numbers = append(numbers, n)
		}
	}
	<-done
	return numbers
}

// glance describes the pages of a mapping as the kernel has them: permissions,
// place in the file, and a sum of the contents.
func (j *injector) glance(base, size uintptr) (pages []string) {
	for _, r := range must(regionsOf(base, base+size)) {
		if n := int(r.Size()); n > len(j.buf) {
			j.buf = make([]byte, n)
		}
		n, _ := j.mem.ReadAt(j.buf[:r.Size()], int64(r.Start)) // up to a page that cannot be had
		for at := uint64(0); at < r.Size(); at += uint64(pageSize) {
			place := uint64(0)
			if r.Inode != 0 {
				place = r.Offset + at
			}
			has := j.buf[min(at, uint64(n)):min(at+uint64(pageSize), uint64(n))]
			pages = append(pages, fmt.Sprintf("%#x %v %d at %#x: %d:%08x", r.Start+at, r.Perms, r.Inode, place, len(has), crc32.ChecksumIEEE(has)))
		}
	}
	return pages
}

// access reads and writes the first pages of a mapping, without changing them, and
// tells how that went.
func access(m mapping) string {
	r, _ := m.(io.ReaderAt)
	w, _ := m.(io.WriterAt)
	p := make([]byte, min(m.Len(), 8*int(pageSize)))
	var n, written int
	var err, failed error
	if r != nil {
		n, err = r.ReadAt(p, 0)
	}
	if w != nil {
		written, failed = w.WriteAt(p[:n], 0)
	}
	return fmt.Sprintf("%v, cap %d: read %d:%08x %v, wrote %d %v", m, m.Cap(), n, crc32.ChecksumIEEE(p[:n]), err, written, failed)
}

// differing says how the account of a mapping's pages differs from the kernel's
// table, "" if it does not.
func differing(m mapping) string {
	t := m.Untyped().ticket
	if !t.good() {
		return ""
	}
	r, table := t.r, procmaps.Region{}
	var want, got []string
	add := func(to *[]string, start, end uint64, p Prot) {
		for ; start < end; start += uint64(pageSize) {
			*to = append(*to, fmt.Sprintf("%#x %v", start, p))
		}
	}
	r.Each(0, r.Data(), func(start, end uintptr, k perms.Kind) {
		add(&want, uint64(r.Base+start), uint64(r.Base+end), Prot(k.Prot))
	})
	add(&want, uint64(r.Base+r.Data()), uint64(r.Base+r.Size), ProtNone)
	for _, table = range must(regionsOf(r.Base, r.Base+r.Size)) {
		add(&got, table.Start, table.End, Prot(table.Perms)&protAll)
	}
	if r.is(isLost) { // somebody else may be where nothing is allowed
		none := func(s string) bool { return strings.HasSuffix(s, ProtNone.String()) }
		want = slices.DeleteFunc(want, none)
		got = slices.DeleteFunc(got, func(s string) bool { return !slices.Contains(want, s) })
	}
	if !slices.Equal(want, got) {
		return fmt.Sprintf("the account has\n%s\nand the kernel\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
	return ""
}

// holdings are what the process has: areas, descriptors, locked memory.
type holdings struct {
	maps   []byte
	files  []string
	locked int
}

func held() (h holdings) {
	h.maps = must(os.ReadFile("/proc/self/maps"))
	dir := must(os.Open("/proc/self/fd"))
	h.files = must(dir.Readdirnames(-1))
	h.files = slices.DeleteFunc(h.files, func(name string) bool { return name == fmt.Sprint(dir.Fd()) })
	dir.Close()
	h.locked = vmLocked()
	return h
}

func (h holdings) areas() (areas []procmaps.Region) {
	for r, err := range procmaps.Scan(bytes.NewReader(h.maps)) {
		if err == nil {
			areas = append(areas, r)
		}
	}
	return areas
}

// more returns the areas that are there now and were not before, and all else that
// there is more.
func (h holdings) more(before holdings) (areas []procmaps.Region, rest []string) {
	if !bytes.Equal(h.maps, before.maps) {
		old := before.areas()
		for _, r := range h.areas() {
			for _, b := range old {
				if b.Start < r.End && r.Start < b.End {
					if b.Start > r.Start {
						areas = append(areas, procmaps.Region{Start: r.Start, End: b.Start, Perms: r.Perms})
					}
					r.Start = min(b.End, r.End)
				}
			}
			if r.Start < r.End {
				areas = append(areas, r)
			}
		}
	}
	for _, f := range h.files {
		if !slices.Contains(before.files, f) {
			rest = append(rest, "descriptor "+f+" is left")
		}
	}
	if h.locked != before.locked {
		rest = append(rest, fmt.Sprintf("%d bytes are locked, not %d", h.locked, before.locked))
	}
	return areas, rest
}

// try makes a trial, and returns what is wrong. The Go runtime may map memory for
// itself meanwhile, and others use huge pages: what the library leaks it leaks again.
func (j *injector) try(c trial) (wrong []string, err error) {
	for range 6 {
		var leaks []string
		if wrong, leaks, err = j.tryOnce(c); len(leaks) == 0 {
			return wrong, err
		}
		wrong = append(wrong, leaks...)
	}
	return wrong, err
}

func (j *injector) tryOnce(c trial) (wrong, leaks []string, err error) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	before := held()
	b := &bed{t: j.t, f: j.f}
	f := c.op.prepare(b)
	type view struct {
		pages  []string
		access string
	}
	look := func(m mapping, r *region) view { return view{j.glance(r.Base, r.Size), access(m)} }
	var views []view
	for _, m := range b.was {
		views = append(views, look(m, m.Untyped().ticket.r))
	}
	failed, err := j.run(c, f)
	var stopped *PartialError
	errors.As(err, &stopped)
	switch {
	case c.how == never:
		if err != nil {
			say("without a fault: %v", err)
		}
	case failed == 0 && j.excused(c, "misses") != "":
	case failed == 0: // as when somebody else has taken the pool's huge pages
		leaks = append(leaks, fmt.Sprint("the call was not made again: ", err))
	case err == nil:
		if j.excused(c, "succeeds") == "" {
			say("it succeeds although the call failed")
		}
	default:
		if c.errno == unix.EINTR && j.excused(c, "succeeds") == calledAgain {
			say("a signal ends it: %v", err)
		}
		if stopped != nil && c.how == once && j.excused(c, "stops") == "" {
			say("it stopped half-way: %v", err)
		}
		if !errors.Is(err, c.errno) && !translated(c, err) {
			say("the error does not match: %v", err)
		}
		fault := (*FaultError)(nil)
		if !(c.op.says != "" && strings.HasPrefix(err.Error(), "mmap: "+c.op.says)) && !errors.As(err, &fault) {
			say("the error does not say what failed: %v", err)
		}
		for i, m := range b.was {
			if stopped != nil {
				j.stopped(c, m, stopped, say)
				continue
			}
			if is, was := look(m, m.Untyped().ticket.r), views[i]; (is.access != was.access || !slices.Equal(is.pages, was.pages)) && j.excused(c, "changes") == "" {
				say("after %v it was %s\n%s\nand is %s\n%s", err, was.access, strings.Join(was.pages, "\n"), is.access, strings.Join(is.pages, "\n"))
			}
		}
		if stopped == nil {
			again := f()
			if again != nil {
				b.collect() // what could not be unmapped can be in the way
				again = f()
			}
			if again != nil && j.excused(c, "blocks") == "" {
				say("afterwards, without a fault: %v", again)
			}
		}
	}
	for _, m := range append(b.was, b.made...) {
		if d := differing(m); d != "" && j.excused(c, "differs") == "" {
			say("%s", d)
		}
	}
	for _, m := range append(b.was, b.made...) {
		if r := m.Untyped().ticket.r; r.is(isLost) {
			// Somebody else may be there, so the library leaves it alone for ever.
			if j.excused(c, "loses") == "" {
				say("given up")
			}
			sys.Munmap(r.Base, r.Size)
		}
		if err := m.Close(); b.stays && errors.Is(err, ErrSealed) {
			m.Release()
		} else if err != nil && !errors.Is(err, ErrMoved) && !errors.Is(err, ErrClosed) {
			say("close: %v", err)
		}
	}
	for _, f := range slices.Backward(b.after) {
		f()
	}
	if stopped != nil {
		// What the error says is elsewhere is the caller's.
		for _, at := range leftAt.FindAllStringSubmatch(stopped.Undo.Error(), -1) {
			var start, end, to uintptr
			fmt.Sscan(strings.Join(at[1:], " "), &start, &end, &to)
			check(j.t, sys.Munmap(to, end-start))
		}
	}
	if c.call == "close" {
		for _, f := range held().files { // the kernel would have closed it
			if n, err := strconv.Atoi(f); err == nil && !slices.Contains(before.files, f) {
				unix.Close(n)
			}
		}
	}
	b.was, b.made = nil, nil
	b.collect()
	areas, rest := held().more(before)
	leaks = append(leaks, rest...)
	for _, a := range areas {
		if a.Perms&(procmaps.Read|procmaps.Write|procmaps.Exec) != 0 || j.excused(c, "leaves space") == "" {
			leaks = append(leaks, "left mapped: "+a.String())
		}
	}
	if b.stays {
		return wrong, nil, err
	}
	return wrong, leaks, err
}

var leftAt = regexp.MustCompile("the pages of (0x[0-9a-f]+)-(0x[0-9a-f]+) are left at (0x[0-9a-f]+)")

// collect does at once what the collector would: it unmaps what nobody has.
func (b *bed) collect() {
	for _, r := range everyRegion() {
		if r.seat == seatYoung && !slices.ContainsFunc(append(b.was, b.made...), func(m mapping) bool { return m.Untyped().ticket.r == r }) {
			nursery.Lock()
			r.sit(seatLeaving) // the collector takes none that is young
			nursery.Unlock()
			r.collect()
		}
	}
	leftover.Try()
}

// stopped says how m is not what the documentation says of a change that stopped
// half-way.
func (j *injector) stopped(c trial, m mapping, e *PartialError, say func(string, ...any)) {
	r := m.Untyped().ticket.r
	if now := must(regionsOf(r.Base, r.Base+r.Size)); !slices.Equal(now, e.Regions) && c.how != everything { // which cannot be read then
		say("the error has the regions %v, the kernel %v", e.Regions, now)
	}
	if _, known := m.known(); known {
		var stopped *PartialError
		if _, err := m.Pin(); !errors.As(err, &stopped) {
			say("half-way, and yet pinned: %v", err)
		}
	}
	if _, err := m.Regions(); err != nil {
		say("half-way: %v", err)
	}
}

// calledAgain is an excuse that has to be used.
const calledAgain = "it is called again"

// notFirst is for the occurrences of a call after the first.
const notFirst = -1

// excuses are what may happen all the same, and why: for operations with this
// beginning, and if these are given for calls, occurrences, errnos and ways to fail.
var excuses = []struct {
	what, op, call string
	at             int
	errnos         string
	how            int
	why            string
	except         string // operations whose names begin so
}{
	{what: "succeeds", call: "close", why: "the kernel closes the descriptor whatever it answers, and nothing was written"},
	{what: "succeeds", call: "madvise msync ftruncate fallocate", errnos: "EINTR", why: calledAgain},
	{what: "succeeds", op: "map huge", call: "openat read", why: "without /proc the kernel is asked for huge pages of its default size"},
	{what: "succeeds", op: "over by huge", call: "openat read", why: "the same"},
	{what: "succeeds", op: "place huge", call: "openat read", why: "the same"},
	{what: "succeeds", op: "memfd huge", call: "openat read", why: "the same"},
	{what: "succeeds", op: "map huge, populated", call: "madvise", why: "Populate is best effort"},
	{what: "succeeds", op: "map huge, locked", call: "madvise", errnos: "EINVAL", why: "this is the answer for memory that cannot be prefaulted: each area is asked, then"},
	{what: "succeeds", op: "grow huge, locked", call: "madvise", errnos: "EINVAL", why: "the same"},
	{what: "succeeds", op: "map locked", call: "madvise", errnos: "EINVAL", why: "this is the answer for memory that cannot be prefaulted: each area is asked, then"},
	{what: "succeeds", op: "grow locked", call: "madvise", errnos: "EINVAL", why: "the same"},
	{what: "succeeds", op: "over by locked", call: "madvise", errnos: "EINVAL", why: "the same"},
	{what: "succeeds", op: "over with a reserve by locked", call: "madvise", errnos: "EINVAL", why: "the same"},
	{what: "succeeds", op: "place locked", call: "madvise", errnos: "EINVAL", why: "the same"},
	{what: "succeeds", op: "lock", call: "madvise", errnos: "EINVAL", why: "the same"},
	{what: "succeeds", op: "lock", call: "msync", why: "it asks what was locked before, and matters if the lock fails"},
	{what: "succeeds", op: "map onto", call: "msync", why: "it asks whether there is something to be replaced, and matters if the rest fails"},
	{what: "succeeds", op: "lock", call: "mlock2", errnos: "ENOSYS", why: "before Linux 4.4 there was mlock(2) only"},
	{what: "succeeds", op: "resize longer", call: "madvise", why: "the new pages are prefaulted as far as that works"},
	{what: "succeeds", call: "openat", op: "map path", errnos: "EAGAIN", why: "a lease: the file is opened again, to wait for it"},
	{what: "succeeds", call: "openat", op: "map shared path", errnos: "EAGAIN", why: "the same"},
	{what: "succeeds", call: "openat pread64", errnos: "EINTR", why: "package os calls it again"},
	{what: "succeeds", call: "epoll_ctl", why: "package os asks whether it can wait for the file, which it never can"},
	{what: "succeeds", op: "memfd", call: "fcntl", at: 1, why: "package os asks for the mode of the descriptor"},
	{what: "succeeds", op: "sealed memfd", call: "fcntl", at: 1, why: "the same"},
	{what: "succeeds", op: "re", call: "fcntl", why: "the same, of regions, resize and reads"},
	{what: "succeeds", op: "table", call: "fcntl", why: "the same"},
	{what: "succeeds", op: "move", call: "fcntl", why: "the same, if the table is read as text"},
	{what: "succeeds", op: "assert", call: "fcntl", why: "the same"},
	{what: "succeeds", op: "adopt", call: "fcntl", why: "the same"},
	{what: "succeeds", call: "pread64", at: notFirst, why: "what was read of the table's text before is enough"},
	{what: "succeeds", op: "map ", call: "fstatat", why: "open(2) and fstat(2) decide"},
	{what: "succeeds", call: "ioctl", why: "without PROCMAP_QUERY the table is read as text", except: "track"},
	{what: "succeeds", op: "track", call: "userfaultfd", errnos: "EINVAL", why: "before Linux 5.11 there was no UFFD_USER_MODE_ONLY"},
	{what: "succeeds", op: "track, evict", call: "mincore", why: "it is asked why a page faults, which is after the operation"},
	{what: "succeeds", op: "track, fetch", call: "mincore", why: "the same"},
	{what: "changes", op: "track, fetch", why: "what was fetched stays, and is what the source has"},
	{what: "changes", op: "track, evict", why: "what was evicted is fetched again"},
	{what: "succeeds", op: "track, close", call: "ioctl", why: "to close the descriptor has the same effect"},
	{what: "succeeds", op: "track a file", call: "openat ioctl fcntl pread64 read fstat", why: "it asks whether the pages come from memory; else the kernel is asked whether they are locked"},
	{what: "succeeds", op: "map populated", call: "madvise mincore", why: "Populate is best effort"},
	{what: "succeeds", op: "over with a reserve by populated", call: "madvise", why: "the same"},
	{what: "succeeds", op: "over by populated", call: "madvise", why: "the same"},
	{what: "succeeds", op: "place populated", call: "madvise", why: "the same"},
	{what: "succeeds", call: "munmap", op: "map aligned", why: "what cannot be unmapped is left to the collector"},
	{what: "succeeds", call: "munmap", op: "map huge", why: "the same"},
	{what: "succeeds", call: "munmap", op: "grow huge", why: "the same"},
	{what: "succeeds", call: "munmap", op: "over by huge", why: "the same"},
	{what: "succeeds", call: "munmap", op: "place huge", why: "the same"},
	{what: "succeeds", call: "munmap", op: "resize longer", why: "the same"},
	{what: "succeeds", call: "munmap", op: "move", why: "the same"},
	{what: "succeeds", call: "munmap", op: "collection", why: "it is tried again after the next collection"},
	{what: "succeeds", call: "munmap", op: "close under a pin", why: "the next Close tries again"},
	{what: "succeeds", op: "memfd", call: "memfd_create", errnos: "EINVAL", why: "kernels before 6.3 do not know MFD_EXEC"},
	{what: "succeeds", op: "sealed memfd", call: "memfd_create", errnos: "EINVAL", why: "the same"},
	{what: "succeeds", op: "resize longer", call: "mremap", errnos: "EFAULT EINVAL", why: "this is the answer for several areas, which are then moved one by one"},
	{what: "succeeds", op: "move", call: "msync", why: "an area that cannot be asked whether it is locked is moved as if it was"},
	{what: "succeeds", op: "resize longer, several", call: "msync", why: "the same"},
	{what: "succeeds", op: "collapse", call: "openat read", why: "with its size unknown, the kernel is asked for a huge page all the same"},
	{what: "succeeds", op: "read ", why: "a cause that cannot be proven is ErrFault"},
	{what: "succeeds", op: "write ", why: "the same"},
	{what: "succeeds", op: "store ", why: "the same"},
	{what: "succeeds", op: "prefault past", call: "openat fcntl pread64 fstatat", why: "the same"},
	{what: "succeeds", op: "prefault past", call: "madvise", errnos: "EFAULT EHWPOISON", why: "it says that a page cannot be had, which is what is expected"},
	{what: "succeeds", op: "lock past", call: "madvise", errnos: "EFAULT EHWPOISON", why: "the same"},
	{what: "succeeds", op: "lock past", call: "mlock2", errnos: "EAGAIN ENOMEM", why: "the same"},
	{what: "succeeds", op: "lock past", call: "munlock", why: "see Unlock"},
	{what: "succeeds", op: "lock past", call: "capget fcntl fstat getrlimit fstatat openat pread64 read", why: "they only look for the limit that was met, and for the cause"},
	{what: "succeeds", op: "probe", why: "what cannot be asked is said to be missing, or else is seen when it is used"},
	{what: "stops", op: "over with a reserve", call: "mremap", at: 2, why: "the new pages are in place, and the new reserve is not"},
	{what: "changes", op: "grow locked", call: "mlock2 madvise", how: everything, why: "the way back fails: pages are accessible, but not handed out"},
	{what: "changes", op: "resize longer within the locked reserve", call: "mlock2", how: everything, why: "the same"},
	{what: "changes", op: "grow huge", how: everything, errnos: "ENOMEM", why: "what is not accessible may be somebody else's by now, and the capacity goes"},
	{what: "changes", op: "track, grow", call: "ioctl", how: everything, why: "the same"},
	{what: "differs", op: "track, grow", call: "ioctl", how: everything, why: "the same"},
	{what: "differs", op: "grow locked", call: "mlock2 madvise", how: everything, why: "the same"},
	{what: "differs", op: "resize longer within the", call: "mlock2 munmap", how: everything, why: "the same"},
	{what: "differs", op: "over", call: "mremap madvise", how: everything, why: "the table cannot be read: of what has stopped half-way nothing is allowed"},
	{what: "differs", call: "mprotect", how: everything, why: "the same"},
	{what: "differs", op: "move", call: "openat close ioctl mmap mremap msync", how: everything, why: "the same"},
	{what: "differs", op: "resize longer, several", how: everything, why: "the same"},
	{what: "loses", how: everything, errnos: "ENOMEM", why: "this is how msync(2) says that there is a hole, into which somebody else may have been mapped"},
	{what: "loses", op: "move several", call: "mmap mremap", how: everything, why: "the old place of a locked area may be somebody else's by now"},
	{what: "loses", op: "resize longer, several", call: "mmap mremap", how: everything, why: "the same"},
	{what: "leaves space", how: everything, call: "close ioctl mmap mlock mlock2 madvise mremap msync munmap pread64", why: "the table cannot be read, and what is held may be somebody else's by now"},
	{what: "skips", op: "map a huge memfd", call: "fstatfs", why: "of these files it does not fail, and otherwise is not needed"},
	{what: "skips", op: "map a huge memfd", call: "fstat", how: everything, why: "of an open file it does not fail; and if unmapping failed then, too, nobody would know how large the pages are"},
	{what: "skips", op: "track a file", call: "read", errnos: "EAGAIN", why: "package os would wait for the table of mounts, which is read for a file in memory"},
	{what: "misses", op: "map huge", call: "munmap mremap", why: "how much is trimmed for the alignment is up to the address"},
	{what: "misses", op: "map aligned", call: "munmap", why: "the same"},
	{what: "blocks", op: "move", how: everything, why: "it is in the way, then"},
	{what: "blocks", op: "grow huge", how: everything, errnos: "ENOMEM", why: "the capacity goes"},
}

func (j *injector) excused(c trial, what string) string {
	has := func(list, s string) bool { return list == "" || slices.Contains(strings.Fields(list), s) }
	for i, e := range excuses {
		if e.what == what && strings.HasPrefix(c.op.name, e.op) && (e.except == "" || !strings.HasPrefix(c.op.name, e.except)) && has(e.call, c.call) && (e.at == 0 || e.at == c.at || e.at == notFirst && c.at > 1) && has(e.errnos, unix.ErrnoName(c.errno)) && (e.how == 0 || e.how == c.how) {
			j.excuses[i]++
			return e.why
		}
	}
	return ""
}

// translated reports whether the documentation has another error for the errno.
func translated(c trial, err error) bool {
	switch {
	case c.op.name == "track a file" && (c.call == "msync" || c.how == everything): // it may be locked
		return errors.Is(err, ErrBusy)
	case strings.HasPrefix(c.op.name, "track, ") && c.call == "msync" && c.errno == unix.ENOMEM: // a hole
		return errors.Is(err, errLost)
	case c.call == "userfaultfd" && c.errno == unix.EINVAL: // without UFFD_USER_MODE_ONLY it needs privileges
		return errors.Is(err, unix.EPERM)
	case c.call == "msync" && c.errno == unix.EINVAL: // from a file that cannot be synced
		return errors.Is(err, errors.ErrUnsupported)
	case c.call != "madvise" && c.how != everything || !strings.Contains(c.op.name, "prefault") && !strings.Contains(c.op.name, "lock"):
		return false
	case c.errno == unix.EINVAL: // for secret memory
		return errors.Is(err, errors.ErrUnsupported)
	}
	return (c.errno == unix.EFAULT || c.errno == unix.EHWPOISON) && errors.Is(err, ErrFault)
}

// TestInjectedFaults fails every system call that an operation makes.
func TestInjectedFaults(t *testing.T) {
	if !tellsPages(t) {
		t.Skip("without PROCMAP_QUERY (Linux 6.11) it would be TestInjectedFaultsText")
	}
	injectFaults(t)
}

// TestInjectedFaultsText is the same where the kernel's table is read as text.
func TestInjectedFaultsText(t *testing.T) { injectFaults(t) }

func injectFaults(t *testing.T) {
	if os.Getenv("MMAP_TEST_CHILD") == t.Name() {
		testInjected(t)
		return
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	theirs := os.NewFile(uintptr(pair[1]), "the child's end")
	var out bytes.Buffer
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", fmt.Sprint("-everyfault=", *everyFault), fmt.Sprint("-test.short=", testing.Short()))
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "MMAP_TEST_CHILD="+t.Name(), quick)
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{theirs}, &out, &out
	if testing.CoverMode() != "" {
		defer collectCoverage(t, cmd)()
	}
	check(t, cmd.Start())
	theirs.Close()
	// Before Linux 6.11 the listener hears of the end of a thread when that has been
	// waited for.
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	listener, err := receiveDescriptor(pair[0])
	unix.Close(pair[0])
	if err == nil {
		check(t, supervise(listener))
		unix.Close(listener)
	}
	err = <-ended
	switch {
	case err == nil && strings.Contains(out.String(), "--- SKIP: "+t.Name()+" ("):
		t.Skip(out.String())
	case err != nil || !strings.Contains(out.String(), "--- PASS: "+t.Name()):
		t.Errorf("%v\n%s", err, out.String())
	default:
		t.Log(out.String())
	}
}

func testInjected(t *testing.T) {
	const socket = 3 // the first of ExtraFiles
	if t.Name() == "TestInjectedFaultsText" {
		filtered(t, []rule{noQuery})
	}
	j := &injector{t: t, work: make(chan func()), calls: calls(), excuses: map[int]int{}, called: map[string]bool{}, errnos: map[string]bool{}}
	j.f, _ = scratch(t, 8*int(pageSize))
	j.mem = must(os.Open("/proc/self/mem"))
	defer j.mem.Close()
	for i := range kernel.Features { // once and for all, and not while a call fails
		Probe(strings.Fields(kernel.Features[i].Names)[0])
	}
	kernel.SmallestHuge()
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		listener, err := filteredThread(-1)
		go func() { // on another thread: nobody answers yet
			if err == nil {
				err = sendDescriptor(socket, listener)
				unix.Close(listener)
			}
			unix.Close(socket)
			ready <- err
		}()
		for f := range j.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Skip("system calls cannot be failed from outside: ", err)
	}
	defer close(j.work)
	debug.SetGCPercent(-1)
	heapRoom()
	t.Logf("%-40s %6s  %s", "operation", "trials", "system calls, and how often it makes each")
	t.Run("SmallPages", func(t *testing.T) { j.all(t, operations(t)) })
	t.Run("HugePages", func(t *testing.T) { j.all(t, hugeOperations(int(withHugePages(t, 16)))) })
	t.Logf("%d operations, %d system calls, %d pairs of a call and an errno, %d trials: all that did not hold is above",
		j.operations, len(j.called), len(j.errnos), j.trials)
	if j.trials == 0 {
		t.Error("no call was failed")
	}
	for i, e := range excuses {
		if n := j.excuses[i]; n > 0 {
			t.Logf("%6d times: %s %s %s %s: %s", n, e.op, e.call, e.errnos, e.what, e.why)
		}
	}
}

// all tries every call of the operations.
func (j *injector) all(t *testing.T, ops []operation) {
	j.t = t
	for _, op := range ops {
		wrong, err := j.try(trial{op: &op})
		if unavailable(err) {
			t.Logf("not tested: %s: %v", op.name, err)
			continue
		}
		if len(wrong) > 0 {
			t.Errorf("%s: %s", op.name, strings.Join(wrong, "\n"))
			continue
		}
		j.operations++
		count, names, before := map[uintptr]int{}, []string{}, j.trials
		var order []uintptr
		for _, n := range j.seen() {
			if count[n]++; count[n] == 1 {
				order = append(order, n)
			}
		}
		for _, n := range order {
			c, ok := j.calls[n]
			if !ok {
				t.Errorf("%s makes call number %d, which the table lacks", op.name, n)
				continue
			}
			j.called[c.name] = true
			names = append(names, fmt.Sprintf("%s×%d", c.name, count[n]))
			for at := 1; at <= count[n]; at++ {
				if at <= 2 || at == count[n] || *everyFault {
					errnos := c.errnos
					if c.name == "ioctl" && strings.HasPrefix(op.name, "track") {
						errnos += " EAGAIN EBUSY EPERM" // of userfaultfd(2)
					}
					j.fail(t, trial{op: &op, number: n, call: c.name, at: at}, errnos)
				}
			}
		}
		runtime.GC()
		t.Logf("%-40s %6d  %s", op.name, j.trials-before, strings.Join(names, " "))
	}
}

// fail fails one call with each errno, in each way. By default only the first call of
// its kind, failing once, has all errnos, if the run is not short; everything else
// has ENOMEM and the first of the list.
func (j *injector) fail(t *testing.T, c trial, errnos string) {
	for i, name := range strings.Fields(errnos) {
		c.errno = errnoOf(name)
		j.errnos[c.call+" "+name] = true
		few := i > 0 && c.errno != unix.ENOMEM && !*everyFault
		for c.how = once; c.how <= everything; c.how++ {
			if few && (c.how != once || c.at > 1 || testing.Short()) || c.how != once && c.errno == unix.EINTR || j.excused(c, "skips") != "" {
				continue // and a call that is interrupted for ever goes on for ever
			}
			j.trials++
			if wrong, _ := j.try(c); len(wrong) > 0 {
				t.Errorf("%v: %s", c, strings.Join(wrong, "\n"))
			}
		}
	}
}

// errnoOf returns the errno of a name.
func errnoOf(name string) syscall.Errno {
	for e := syscall.Errno(1); e < 200; e++ {
		if unix.ErrnoName(e) == name || name == "EWOULDBLOCK" && e == unix.EWOULDBLOCK || name == "EOPNOTSUPP" && e == unix.EOPNOTSUPP {
			return e
		}
	}
	panic("no errno " + name)
}
