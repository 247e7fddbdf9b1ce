//go:build linux

package mmap

import (
	"fmt"
	"io"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/latch"
)

// transfer copies out of the mapping into p if need is ProtRead, and from p into
// it if need is ProtWrite, as far as each page allows it.
//
// This is what there is to do for bytes of one page that may be copied. The rest is with
// transferRest, for a small function is a fast one.
func (t ticket) transfer(p []byte, off int64, need Prot) (n int, err error) {
	g := guard{r: t.r, need: need}
	if !t.pinWord() {
		if g.line, err = t.pinSlowly(0); err != nil {
			return transferRefused(p, off, need, err)
		}
	}
	at, inside := t.r.onePage(off, uintptr(len(p)), need)
	if !inside {
		return t.r.transferRest(g.line, p, off, need)
	}
	g.at = at
	g.enter()
	defer func() {
		if !g.left {
			g.rescueUnpin(recover(), &err)
		}
	}()
	if need == ProtRead {
		copy(p, memory(at, len(p)))
	} else {
		copy(memory(at, len(p)), p)
	}
	g.leave()
	t.r.Unpin(g.line, t.r)
	return len(p), nil
}

// onePage returns where n bytes at off are, and whether they are within Len, in one page, and
// every page of the mapping allows need. The caller has a pin. It is inlined.
func (r *region) onePage(off int64, n uintptr, need Prot) (at uintptr, ok bool) {
	size := r.len.Load()
	at = r.addr.Load() + uintptr(off)
	return at, uint64(off) <= uint64(size) && n <= size-uintptr(off) &&
		n <= kernel.PageSize-at&(kernel.PageSize-1) && Prot(r.prot.Load()).allows(need)
}

// transferRefused returns the error of a transfer that could not pin.
func transferRefused(p []byte, off int64, need Prot, err error) (int, error) {
	if off < 0 {
		return 0, badOffset(p, off, need)
	}
	return 0, named(err, "%s of %v at %d", verbs[need], fail.Count(len(p)), off)
}

func badOffset(p []byte, off int64, need Prot) error {
	return fail.Bad(fmt.Sprintf("%s of %v at %d", verbs[need], fail.Count(len(p)), off), "negative offset")
}

// transferRest is the rest of transfer, with a pin.
func (r *region) transferRest(line *latch.Stripe, p []byte, off int64, need Prot) (int, error) {
	if off < 0 {
		r.unpin(line)
		return 0, badOffset(p, off, need)
	}
	size := r.len.Load()
	end := int(max(0, min(int64(len(p)), int64(size)-off)))
	var short error // what is said of an end before all that was asked for
	if !Prot(r.prot.Load()).allows(need) {
		end, short = r.allowedPart(int(off), end, len(p), need)
	}
	switch {
	case end == len(p) || short != nil:
	case need == ProtRead:
		short = io.EOF
	default:
		const hint = "%s of %v at %d: the mapping ends at %d"
		short = named(io.ErrShortWrite, hint, verbs[need], fail.Count(len(p)), off, size)
	}
	return r.transferPages(line, p[:end], r.addr.Load()+uintptr(off), need, short)
}

// transferPages copies all of p, and returns short with its length.
//
// It goes in pieces, for the runtime cannot stop a copy, and a collection would wait for
// all of it.
func (r *region) transferPages(line *latch.Stripe, p []byte, at uintptr, need Prot, short error) (n int, err error) {
	// A composite literal would be put together elsewhere and copied here. The copy's loads are
	// longer than the stores just before, and wait for them: a third of a short copy.
	var c copying
	c.r, c.line, c.at, c.need, c.p = r, line, at, need, p
	c.enter()
	defer func() {
		if !c.left {
			n, err = c.rescueUnpin(recover(), len(p), short)
		}
	}()
	for len(c.p) > 0 {
		size := min(len(c.p), pieceSize)
		if need == ProtWrite {
			c.pages(size)
		} else {
			copyPiece(c.p[:size], memory(c.at, size))
			c.done(size)
		}
	}
	c.leave()
	r.Unpin(line, r)
	return len(p), short
}

// rescueUnpin is rescueCopy, and then unpins the region. It returns what transferPages does
// for size bytes: where the page has come back, all of them have been copied.
func (c *copying) rescueUnpin(v any, size int, short error) (n int, err error) {
	defer c.r.unpin(c.line)
	if err = c.rescueCopy(v); err == nil {
		err = short
	}
	return size - len(c.p), err
}

// A copying is a guarded copy, which stands at guard.at.
type copying struct {
	guard
	p []byte // what is to be copied yet
}

// A longer piece keeps the processor for long: this one takes some 20 µs from the cache. A
// shorter one is slower, for memmove stores past the caches from this size on.
const pieceSize = 1 << 20

func (c *copying) done(size int) {
	c.p, c.at = c.p[size:], c.at+uintptr(size)
}

// copyPiece copies. It is a call, because the runtime stops a goroutine where a function
// begins.
//
//go:noinline
func copyPiece(dst, src []byte) { copy(dst, src) }

// pages copies so many bytes page by page: a copy that faults has changed nothing of its
// page, whatever order it copies in. It is a call as copyPiece is.
//
//go:noinline
func (c *copying) pages(size int) {
	for size > 0 {
		part := min(size, int(kernel.PageSize-c.at&(kernel.PageSize-1)))
		if c.need == ProtWrite {
			copy(memory(c.at, part), c.p)
		} else {
			copy(c.p, memory(c.at, part))
		}
		c.done(part)
		size -= part
	}
}

// rescueCopy is rescue, and returns the error of the copy. How much of a piece could be
// read is not known: it is read again, page by page.
func (c *copying) rescueCopy(v any) (err error) {
	where, ok := v.(interface{ Addr() uintptr })
	if c.need == ProtWrite || !ok || !c.r.covers(where.Addr()) {
		c.rescue(v, &err)
		return err
	}
	c.restore()
	stack := faultStack()
	if err = c.readAgain(); err != nil {
		err.(*FaultError).PCs = stack
	}
	return err
}

func (c *copying) readAgain() (err error) {
	c.enter()
	defer func() {
		if !c.left {
			c.rescue(recover(), &err)
		}
	}()
	for len(c.p) > 0 {
		c.pages(min(len(c.p), pieceSize))
	}
	c.leave()
	return nil
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
			g.rescueUnpin(recover(), &err)
		}
	}()
	err = f(memory(t.r.addr.Load(), int(t.r.len.Load())))
	g.leave()
	t.r.Unpin(g.line, t.r)
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
			g.rescueUnpin(recover(), &err)
		}
	}()
	err = f(memory(t.r.addr.Load(), int(t.r.len.Load())))
	g.leave()
	t.r.Unpin(g.line, t.r)
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

// viewRange calls f with a part of the mapping, if its pages allow need.
func (t ticket) viewRange(off, n int, need Prot, f func(b []byte) error) error {
	return t.viewFor(need, func(b []byte) error {
		if off < 0 || n < 0 || off > len(b) || n > len(b)-off {
			op := fmt.Sprintf("%s of %v at %d", views[need], fail.Count(n), off)
			return fail.Bad(op, "the mapping has %v", fail.Count(len(b)))
		}
		if err := t.r.allowed(off, n, need); err != nil {
			return named(err, "%s of %v at %d", views[need], fail.Count(n), off)
		}
		return f(b[off : off+n : off+n])
	})
}

// viewAllowed calls f with the whole mapping, if its pages allow need.
func (t ticket) viewAllowed(need Prot, f func(b []byte) error) error {
	return t.viewFor(need, func(b []byte) error {
		if err := t.r.allowed(0, len(b), need); err != nil {
			return named(err, "%s of %v at 0", views[need], fail.Count(len(b)))
		}
		return f(b)
	})
}

func (t ticket) viewFor(need Prot, f func(b []byte) error) error {
	if need == ProtRead {
		return t.view(f)
	}
	return t.update(f)
}

var views = [...]string{ProtRead: "view", ProtRead | ProtWrite: "update"}
