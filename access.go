package mmap

import (
	"fmt"
	"io"
)

// reader is the inside of handles that can be read only.
type reader struct{ ticket }

// writer is the inside of handles that can be written only.
type writer struct{ ticket }

// updater is the inside of handles that can be read and written.
type updater struct{ writer }

// ReadAt copies from the mapping at off into p, as [io.ReaderAt] says: with
// fewer bytes than len(p) the error says why, io.EOF at the end of the mapping.
// A fault is a [*FaultError] with the offset where the copy stopped; what lies
// in p beyond the count is as it was. A negative offset is a bad argument.
//
// ReadAt may be called by several goroutines at once. Copies are not atomic:
// with a writer at work, old and new bytes can mix.
func (r reader) ReadAt(p []byte, off int64) (n int, err error) {
	return r.transfer(p, off, ProtRead, false)
}

// View calls f with the memory itself, len == cap. The slice is valid until f
// returns, and the mapping stays as it is so long: transitions answer ErrBusy,
// Close takes effect afterwards. A fault, also that of a store into b, ends f
// and is returned as a [*FaultError]; see [Guard] for what that covers.
// Otherwise the error is that of f, or ErrClosed or ErrMoved.
func (r reader) View(f func(b []byte) error) error { return r.view(f) }

// UnsafeBytes returns the memory itself, neither guarded nor pinned: a fault
// ends the program, and so does touching the slice after Close or a transition
// that moves the mapping, if it does not read another mapping's bytes. The
// mapping is never collected from now on; Close still unmaps it. It is nil for
// a handle that is no longer good.
func (r reader) UnsafeBytes() []byte { return r.lend(ProtRead) }

// WriteAt copies p into the mapping at off, as [io.WriterAt] says. A mapping
// does not grow by writing: what does not fit is left out, and the error
// matches [io.ErrShortWrite]. A fault is a [*FaultError] with the offset where
// the copy stopped; no byte beyond it was changed. A negative offset is a bad
// argument.
//
// WriteAt may be called by several goroutines at once, and beside reads; the
// copies are not atomic.
func (w writer) WriteAt(p []byte, off int64) (n int, err error) {
	return w.transfer(p, off, ProtWrite, false)
}

// ReadAt is as that of [Read].
func (u updater) ReadAt(p []byte, off int64) (n int, err error) {
	return u.transfer(p, off, ProtRead, false)
}

// View is as that of [Read].
func (u updater) View(f func(b []byte) error) error { return u.view(f) }

// UnsafeBytes is as that of [Read].
func (u updater) UnsafeBytes() []byte { return u.lend(ProtRead) }

// Update calls f with the memory itself, to read and to write. All else is as
// with View of [Read].
func (u updater) Update(f func(b []byte) error) error { return u.update(f) }

// transfer copies out of the mapping into p if need is ProtRead, and from p into
// it if need is ProtWrite. If checked, each page must allow it.
//
// It goes page by page: a copy that faults has changed nothing of the page
// where it faulted, whatever order it copies in, so n is exact.
func (t ticket) transfer(p []byte, off int64, need Prot, checked bool) (n int, err error) {
	if off < 0 {
		return 0, bad(fmt.Sprintf("%s of %v at %d", verbs[need], count(len(p)), off), "negative offset")
	}
	g := guard{r: t.r, need: need}
	if !t.pinWord() {
		if g.line, err = t.pinSlowly(0); err != nil {
			return 0, named(err, "%s of %v at %d", verbs[need], count(len(p)), off)
		}
	}
	if checked && !Prot(g.r.prot.Load()).allows(need) {
		return t.transferAllowed(g.line, p, off, need)
	}
	end := int(max(0, min(int64(len(p)), int64(g.r.len.Load())-off)))
	start := g.r.addr.Load() + uintptr(off)
	g.enter()
	defer func() {
		if !g.left {
			g.rescue(recover(), &err)
		}
	}()
	for n < end {
		g.at = start + uintptr(n)
		size := min(end-n, int(pageSize-g.at&(pageSize-1)))
		if need == ProtRead {
			copy(p[n:n+size], memory(g.at, size))
		} else {
			copy(memory(g.at, size), p[n:n+size])
		}
		n += size
	}
	g.leave()
	if n < len(p) {
		if err = io.EOF; need == ProtWrite {
			err = named(io.ErrShortWrite, "write of %v at %d: the mapping ends at %d", count(len(p)), off, g.r.len.Load())
		}
	}
	g.r.unpin(g.line)
	return n, err
}

var verbs = [...]string{ProtRead: "read", ProtWrite: "write"}

// view calls f with the whole mapping. update is the same with another name in its
// error; to pass the name costs a view a tenth.
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
	g.r.unpin(g.line)
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
	g.r.unpin(g.line)
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
	t.r.lent.Store(true)
	return memory(t.r.addr.Load(), int(t.r.len.Load()))
}
