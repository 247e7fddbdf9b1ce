package app

import (
	"errors"
	"fmt"
	"log"
	"os"

	"data/second/store"

	"github.com/mmarinus/mmap"
)

// Emit writes machine code and makes it executable.
//
// Wrong: nobody looks at what Protect answers. If it failed, the code is not
// executable, and if not, nobody has the handle.
func Emit(w mmap.ReadWrite, code []byte) (entry uintptr, err error) {
	entry = w.Addr()
	if _, err := w.WriteAt(code, 0); err != nil {
		return 0, err
	}
	mmap.Protect[mmap.ReadExec](w) // want `ignored: `
	return entry, nil
}

// EmitRight is Emit as it should be. Right: the caller gets the handle.
func EmitRight(w mmap.ReadWrite, code []byte) (mmap.ReadExec, error) {
	if _, err := w.WriteAt(code, 0); err != nil {
		return mmap.ReadExec{}, err
	}
	return mmap.Protect[mmap.ReadExec](w)
}

// Patch writes into code for a moment.
//
// Wrong: the deferred Protect gives the mapping a new handle that goes nowhere;
// after this function nobody can close it or patch it again.
func Patch(x mmap.ReadExec, at int64, p []byte) error {
	w, err := mmap.Protect[mmap.ReadWrite](x)
	if err != nil {
		return err
	}
	defer mmap.Protect[mmap.ReadExec](w) // want `ignored: `
	_, err = w.WriteAt(p, at)
	return err
}

// PatchRight is Patch as it should be. Right: the handle comes back by the
// pointer, and on every path the variable has the one that is good.
func PatchRight(x *mmap.ReadExec, at int64, p []byte) (err error) {
	w, err := mmap.Protect[mmap.ReadWrite](*x)
	if err != nil {
		return err
	}
	_, werr := w.WriteAt(p, at)
	next, err := mmap.Protect[mmap.ReadExec](w)
	if err != nil {
		return errors.Join(err, werr, w.Close())
	}
	*x = next
	return werr
}

// Finalize freezes data beside the code.
//
// Wrong: the results of another package's transition are dropped, both.
func Finalize(data mmap.ReadWrite) {
	log.Print("finalize: ", data.Len())
	_, _ = store.Freeze(data) // want `ignored: `
}

// FinalizeTwice freezes data, and shows that this is final. Right: the second
// transition is expected to fail, and its error is looked at.
func FinalizeTwice(keep *store.Lifetime, data mmap.ReadWrite) error {
	ro, err := store.Freeze(data)
	if err != nil {
		return err
	}
	keep.Keep(ro)
	if _, err := store.Freeze(data); !errors.Is(err, mmap.ErrMoved) {
		return fmt.Errorf("frozen twice: %v", err)
	}
	return nil
}

// Negative shows that a size below 0 is refused. Right: the handle is dropped,
// but the error says what is wrong if there is one.
func Negative(m mmap.ReadWrite) error {
	if _, err := mmap.Resize(m, -1); err == nil {
		return errors.New("resized to less than nothing")
	}
	return nil
}

// HoldStill keeps the code where it is while a thread is in it.
//
// Wrong: the pin is dropped. It can never be ended, and a failure is not seen.
func HoldStill(x mmap.ReadExec, run func()) {
	x.Pin() // want `ignored: `
	run()
}

// Cache reads a file ahead.
//
// Wrong: the mapping is dropped at once, with its error.
func Cache(path string) {
	_, _ = mmap.Map[mmap.Read](mmap.Path(path).Populate()) // want `ignored: `
}

// CacheRight reads a file ahead. Right: a failure has nothing to close, and
// Close of the zero handle does no harm.
func CacheRight(path string) {
	m, _ := mmap.Map[mmap.Read](mmap.Path(path).Populate())
	m.Close()
}

// Tidy ignores what may be ignored. Right: Close, Grow, Sync and Unpin have no
// handle that could be lost.
func Tidy(m mmap.ReadWrite, p *mmap.Pin) {
	mmap.Grow(m, m.Len()+page)
	m.StartSync(0, m.Len())
	_ = m.Advise(0, m.Len(), mmap.AdviceCold)
	p.Unpin()
	m.Close()
}

// Install makes code that stays until the process ends. Right: after Seal no
// Close would do anything, and before it every path closes.
func Install(code []byte) (entry uintptr, err error) {
	w, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(len(code)))
	if err != nil {
		return 0, err
	}
	if _, err := w.WriteAt(code, 0); err != nil {
		w.Close()
		return 0, err
	}
	x, err := mmap.Protect[mmap.ReadExec](w)
	if err != nil {
		w.Close()
		return 0, err
	}
	if err := x.Seal(); err != nil {
		x.Close()
		return 0, err
	}
	return x.Addr(), nil
}

// Compile makes code from a source.
//
// Wrong: when Protect fails the memory is still w's, and nobody closes it.
func Compile(gen func(b []byte) error) (mmap.ReadExec, error) {
	w, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(16 * page)) // want `unclosed: `
	if err != nil {
		return mmap.ReadExec{}, err
	}
	if err := w.Update(gen); err != nil {
		return mmap.ReadExec{}, errors.Join(err, w.Close())
	}
	x, err := mmap.Protect[mmap.ReadExec](w)
	if err != nil {
		return mmap.ReadExec{}, err
	}
	return x, nil
}

// A Ring is memory that two processes share.
type Ring struct {
	f    *os.File
	view mmap.ReadWrite
	tail []byte
}

// NewRing makes a ring. Right: the file and the mapping go into the Ring, or
// neither is left.
func NewRing(n int) (_ *Ring, err error) {
	f, err := mmap.Memfd("ring", int64(n), mmap.SealShrink|mmap.SealGrow)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	r := &Ring{f: f}
	r.view, err = mmap.Map[mmap.ReadWrite](mmap.File(f, 0, n).Shared())
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Mirror maps the ring twice, back to back. Right: u is the caller's when all
// pages are in place, and closed if not.
func (r *Ring) Mirror(n int) (mmap.Unknown, error) {
	u, err := mmap.MapUnknown(mmap.Anonymous(2*n), mmap.ProtNone)
	if err != nil {
		return u, err
	}
	for _, off := range [...]int{0, n} {
		if err := u.Place(off, mmap.File(r.f, 0, n).Shared(), mmap.ProtRead|mmap.ProtWrite); err != nil {
			u.Close()
			return mmap.Unknown{}, err
		}
	}
	return u, nil
}

// Reset remembers the tail and drops the pages.
//
// Wrong: UpdateRange lends, and the field of the ring is read after it.
func (r *Ring) Reset() error {
	n := r.view.Len()
	if err := r.view.UpdateRange(n-64, 64, func(b []byte) error { clear(b); r.tail = b; return nil }); err != nil { // want `escape: `
		return err
	}
	return r.view.Punch(0, n&^(page-1))
}

// Tail is what Reset has remembered.
func (r *Ring) Tail() int { return len(r.tail) + int(r.tail[0]) }

// Shrink gives memory of the ring back, and prints both sizes.
//
// Wrong: r.view still is the handle that Resize consumed, so its Len is 0, and
// the Ring has lost its mapping to the caller.
func (r *Ring) Shrink(n int) (mmap.ReadWrite, error) {
	small, err := mmap.Resize(r.view, n)
	if err != nil {
		return small, err
	}
	log.Printf("ring: %d -> %d", r.view.Len(), small.Len()) // want `moved: `
	return small, nil
}

// Close ends the ring. Right.
func (r *Ring) Close() error {
	r.tail = nil
	return errors.Join(r.view.Close(), r.f.Close())
}
