package mmap

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
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
func (u updater) Update(f func(b []byte) error) error { return u.view(f) }

// transfer copies out of the mapping into p if need is ProtRead, and from p into
// it if need is ProtWrite. If checked, each page must allow it.
func (t ticket) transfer(p []byte, off int64, need Prot, checked bool) (n int, err error) {
	line, err := t.pin()
	if err != nil {
		return 0, named(err, "%s of %d bytes at %d", verbs[need], len(p), off)
	}
	r := t.r
	length := int64(r.len.Load())
	if off < 0 || off >= length || len(p) == 0 {
		r.unpin(line)
		if off < 0 {
			return 0, bad(fmt.Sprintf("%s of %d bytes at %d", verbs[need], len(p), off), "negative offset")
		}
		return 0, short(0, len(p), off, length, need)
	}
	part := p
	if int64(len(p)) > length-off {
		part = p[:length-off]
	}
	var refused error
	if checked {
		if at, has, no := r.refuses(int(off), len(part), need); no {
			refused = named(unix.EACCES, "%s of %d bytes at %d: %v page at offset %d", verbs[need], len(p), off, has, at)
			part = part[:max(int64(at), off)-off]
		}
	}
	n, err = r.copyPages(line, part, r.addr.Load()+uintptr(off), need)
	if fault, ok := err.(*FaultError); ok {
		fault.Offset = int(off) + n
	} else if err = refused; err == nil && n < len(p) {
		err = short(n, len(p), off, length, need)
	}
	return n, err
}

var verbs = [...]string{ProtRead: "read", ProtWrite: "write"}

// short is the error of a copy that reached the end of the mapping.
func short(n, want int, off, length int64, need Prot) error {
	switch {
	case n == want:
		return nil
	case need == ProtRead:
		return io.EOF
	}
	return named(io.ErrShortWrite, "write of %d bytes at %d: the mapping ends at %d", want, off, length)
}

// copyPages copies between p and the memory at addr, and ends the caller's pin.
//
// It goes page by page: a copy that faults has changed nothing of the page
// where it faulted, whatever order it copies in, so n is exact.
func (r *region) copyPages(line *stripe, p []byte, addr uintptr, need Prot) (n int, err error) {
	g := guard{r: r, line: line}
	g.enter()
	defer g.rescue(&err)
	for n < len(p) {
		at := addr + uintptr(n)
		size := min(len(p)-n, int(pageSize-at&(pageSize-1)))
		if need == ProtRead {
			copy(p[n:n+size], memory(at, size))
		} else {
			copy(memory(at, size), p[n:n+size])
		}
		n += size
	}
	g.leave()
	r.unpin(line)
	return n, nil
}

// view calls f with the whole mapping.
func (t ticket) view(f func(b []byte) error) (err error) {
	// This is pin, and below unpin, written out: the calls are a fifth of what a
	// view costs.
	r := t.r
	if r == nil {
		return named(ErrClosed, "view")
	}
	var line *stripe
	if w := r.word.Load(); r.stripes.Load() != nil || w-t.state >= pinMask || !r.word.CompareAndSwap(w, w+pinOne) {
		if line, err = t.pinSlowly(0); err != nil {
			return named(err, "view")
		}
	}
	g := guard{r: r, line: line}
	g.enter()
	defer g.rescue(&err)
	err = f(memory(r.addr.Load(), int(r.len.Load())))
	g.leave()
	if line != nil {
		r.unpin(line)
	} else if r.word.Add(^uint64(0))&closed != 0 {
		r.settle()
	}
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
