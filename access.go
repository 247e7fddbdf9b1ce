//go:build linux

package mmap

// go/doc shows the methods that a handle has from one unexported level, and no more.
// So what can be read and written has the methods of both others written out.

// reader is the inside of handles that can be read only.
type reader struct{ base }

// writer is the inside of handles that can be written only.
type writer struct{ base }

// updater is the inside of handles that can be read and written.
type updater struct{ base }

// ReadAt copies from the mapping at off into p, as [io.ReaderAt] says: with
// fewer bytes than len(p) the error says why, io.EOF at the end of the mapping.
// A fault is a [*FaultError] with the offset where the copy stopped; the bytes of p
// beyond the count can have changed. p must not overlap the mapping. A negative offset is a
// bad argument.
//
// ReadAt may be called by several goroutines at once. Copies are not atomic:
// with a writer at work, old and new bytes can mix.
func (r reader) ReadAt(p []byte, off int64) (n int, err error) {
	return r.transfer(p, off, ProtRead)
}

// View calls f with the memory itself, len == cap. The slice is valid until f returns.
// Until then the mapping stays as it is: transitions return ErrBusy, and Close returns at
// once but unmaps later. A memory fault ends f and is returned as a [*FaultError], also
// that of a store into b, which cannot be written; see [Guard] for what that covers.
// Otherwise the error is that of f, or ErrClosed or ErrMoved.
func (r reader) View(f func(b []byte) error) error { return r.view(f) }

// ViewRange is View of the n bytes at off. A range that is not within Len is a bad
// argument.
func (r reader) ViewRange(off, n int, f func(b []byte) error) error {
	return r.viewRange(off, n, ProtRead, f)
}

// UnsafeBytes returns the memory itself, neither guarded nor pinned. A memory fault ends
// the program. After Close, or a transition that moves the mapping, touching the slice ends
// the program or reads another mapping's bytes. The mapping is never collected from now on;
// Close still unmaps it. It is nil for a handle that is no longer good.
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
	return w.transfer(p, off, ProtWrite)
}

// ReadAt copies from the mapping at off into p, as [io.ReaderAt] says: with
// fewer bytes than len(p) the error says why, io.EOF at the end of the mapping.
// A fault is a [*FaultError] with the offset where the copy stopped; the bytes of p
// beyond the count can have changed. p must not overlap the mapping. A negative offset is a
// bad argument.
//
// ReadAt may be called by several goroutines at once. Copies are not atomic:
// with a writer at work, old and new bytes can mix.
func (u updater) ReadAt(p []byte, off int64) (n int, err error) {
	return u.transfer(p, off, ProtRead)
}

// View calls f with the memory itself, len == cap. The slice is valid until f returns.
// Until then the mapping stays as it is: transitions return ErrBusy, and Close returns at
// once but unmaps later. A memory fault ends f and is returned as a [*FaultError]; see
// [Guard] for what that covers. Otherwise the error is that of f, or ErrClosed or ErrMoved.
//
// The memory can be written, and View does not stop stores into b. Update says that you
// write.
func (u updater) View(f func(b []byte) error) error { return u.view(f) }

// ViewRange is View of the n bytes at off. A range that is not within Len is a bad
// argument.
func (u updater) ViewRange(off, n int, f func(b []byte) error) error {
	return u.viewRange(off, n, ProtRead, f)
}

// UnsafeBytes returns the memory itself, to read and to write, neither guarded nor pinned.
// A memory fault ends the program. After Close, or a transition that moves the mapping,
// touching the slice ends the program or reaches another mapping's bytes. The mapping is
// never collected from now on; Close still unmaps it. It is nil for a handle that is no
// longer good.
func (u updater) UnsafeBytes() []byte { return u.lend(ProtRead) }

// WriteAt copies p into the mapping at off, as [io.WriterAt] says. A mapping
// does not grow by writing: what does not fit is left out, and the error
// matches [io.ErrShortWrite]. A fault is a [*FaultError] with the offset where
// the copy stopped; no byte beyond it was changed. A negative offset is a bad
// argument.
//
// WriteAt may be called by several goroutines at once, and beside reads; the
// copies are not atomic.
func (u updater) WriteAt(p []byte, off int64) (n int, err error) {
	return u.transfer(p, off, ProtWrite)
}

// Update calls f with the memory itself, to read and to write, len == cap. The slice is
// valid until f returns. Until then the mapping stays as it is: transitions return ErrBusy,
// and Close returns at once but unmaps later. A memory fault ends f and is returned as a
// [*FaultError]; see [Guard] for what that covers. Otherwise the error is that of f, or
// ErrClosed or ErrMoved.
func (u updater) Update(f func(b []byte) error) error { return u.update(f) }

// UpdateRange is Update of the n bytes at off. A range that is not within Len is a bad
// argument.
func (u updater) UpdateRange(off, n int, f func(b []byte) error) error {
	return u.viewRange(off, n, ProtRead|ProtWrite, f)
}
