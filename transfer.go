//go:build linux

package mmap

import (
	"fmt"
	"io"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
)

// transfer copies out of the mapping into p if need is ProtRead, and from p into
// it if need is ProtWrite. If checked, each page must allow it.
//
// It goes page by page: a copy that faults has changed nothing of the page
// where it faulted, whatever order it copies in, so n is exact.
func (t ticket) transfer(p []byte, off int64, need Prot, checked bool) (n int, err error) {
	if off < 0 {
		return 0, fail.Bad(fmt.Sprintf("%s of %v at %d", verbs[need], fail.Count(len(p)), off), "negative offset")
	}
	g := guard{r: t.r, need: need}
	if !t.pinWord() {
		if g.line, err = t.pinSlowly(0); err != nil {
			return 0, named(err, "%s of %v at %d", verbs[need], fail.Count(len(p)), off)
		}
	}
	end := int(max(0, min(int64(len(p)), int64(g.r.len.Load())-off)))
	var refused error
	if checked && !Prot(g.r.prot.Load()).allows(need) {
		end, refused = g.r.allowedPart(int(off), end, len(p), need)
	}
	start := g.r.addr.Load() + uintptr(off)
	g.enter()
	defer func() {
		if !g.left {
			g.rescue(recover(), &err)
		}
	}()
	for n < end {
		g.at = start + uintptr(n)
		size := min(end-n, int(kernel.PageSize-g.at&(kernel.PageSize-1)))
		if need == ProtRead {
			copy(p[n:n+size], memory(g.at, size))
		} else {
			copy(memory(g.at, size), p[n:n+size])
		}
		n += size
	}
	g.leave()
	if n < len(p) {
		switch err = io.EOF; {
		case refused != nil: // with a byte at least left
			err = refused
		case need == ProtWrite:
			err = named(io.ErrShortWrite, "write of %v at %d: the mapping ends at %d", fail.Count(len(p)), off, g.r.len.Load())
		}
	}
	g.r.Unpin(g.line, g.r)
	return n, err
}

var verbs = [...]string{ProtRead: "read", ProtWrite: "write"}

// view calls f with the whole mapping. update is the same with another name in its
// error: with the name as an argument, a view was slower where it was measured.
func (t ticket) view(f func(b []byte) error) (err error) {
	g := guard{r: t.r}
	if !t.pinWord() {
		if g.line, err = t.pinSlowly(0); err != nil {
			return named(err, "view")
		}
	}
	g.enter()
	defer func() {
		if !g.left {
			g.rescue(recover(), &err)
		}
	}()
	err = f(memory(g.r.addr.Load(), int(g.r.len.Load())))
	g.leave()
	g.r.Unpin(g.line, g.r)
	return err
}

func (t ticket) update(f func(b []byte) error) (err error) {
	g := guard{r: t.r}
	if !t.pinWord() {
		if g.line, err = t.pinSlowly(0); err != nil {
			return named(err, "update")
		}
	}
	g.enter()
	defer func() {
		if !g.left {
			g.rescue(recover(), &err)
		}
	}()
	err = f(memory(g.r.addr.Load(), int(g.r.len.Load())))
	g.leave()
	g.r.Unpin(g.line, g.r)
	return err
}

// lend returns the whole mapping for ever, if every page of it allows need.
func (t ticket) lend(need Prot) []byte {
	line, err := t.pin()
	if err != nil {
		return nil
	}
	defer t.r.unpin(line)
	if !Prot(t.r.prot.Load()).allows(need) {
		return nil
	}
	t.r.mark(isLent)
	return memory(t.r.addr.Load(), int(t.r.len.Load()))
}

func (t ticket) viewRange(off, n int, whole bool, need Prot, f func(b []byte) error) error {
	part := func(b []byte) error {
		if whole {
			n = len(b)
		} else if off < 0 || n < 0 || off > len(b) || n > len(b)-off {
			op := fmt.Sprintf("%s of %v at %d", views[need], fail.Count(n), off)
			return fail.Bad(op, "the mapping has %v", fail.Count(len(b)))
		}
		if err := t.r.allowed(off, n, need); err != nil {
			return named(err, "%s of %v at %d", views[need], fail.Count(n), off)
		}
		return f(b[off : off+n : off+n])
	}
	if need == ProtRead {
		return t.view(part)
	}
	return t.update(part)
}

var views = [...]string{ProtRead: "view", ProtRead | ProtWrite: "update"}
