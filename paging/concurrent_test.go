//go:build linux

package paging_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/testkit"
	"github.com/mmarinus/mmap/paging"
)

// A gate is a source whose reads wait until let is closed, and say before where they are.
type gate struct {
	*source
	entered chan int64
	let     chan struct{}
}

func newGate(size int) *gate {
	return &gate{newSource(size), make(chan int64, 1000), make(chan struct{})}
}

func (g *gate) ReadAt(b []byte, off int64) (int, error) {
	g.entered <- off
	<-g.let
	return g.source.ReadAt(b, off)
}

// started runs f, which is to wait for a window that somebody else fetches, and gives it time
// to do so.
func started(f func() error) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	time.Sleep(10 * time.Millisecond)
	return ended
}

// TestGrowBesideFetch: who waits for a window that was shorter when its fetch began gets all
// of it.
func TestGrowBesideFetch(t *testing.T) {
	size := 4 * pg
	src := newGate(size)
	m, p := paged[mmap.ReadWrite](t, mmap.Anonymous(pg).Reserve(size), src, paging.Window(size))
	first := started(func() error { return p.Fetch(t.Context(), 0, 1) })
	soon(t, "the source", src.entered)
	check(t, mmap.Grow(m, size))
	var waiters []<-chan error
	for range 8 {
		waiters = append(waiters, started(func() error {
			return p.ViewRange(0, size, func(b []byte) error {
				if !bytes.Equal(b, src.data) {
					t.Error("contents differ")
				}
				return nil
			})
		}), started(func() error {
			err := p.Fetch(t.Context(), 0, size)
			return errors.Join(err, testkit.Second(m.ReadAt(make([]byte, size), 0)))
		}))
	}
	close(src.let)
	check(t, soon(t, "the first", first))
	for _, w := range waiters {
		check(t, soon(t, "a waiter", w))
	}
}

// TestContext: a context that ends ends the waiting for somebody else, and not the fetch.
func TestContext(t *testing.T) {
	size := 16 * pg
	src := newGate(size)
	m, p := paged[mmap.ReadWrite](t, mmap.Anonymous(size), src, paging.Window(pg))
	first := started(func() error { return p.Fetch(t.Context(), 3*pg, 1) })
	soon(t, "the source", src.entered)
	ctx, cancel := context.WithCancelCause(t.Context())
	waiter := started(func() error { return p.Fetch(ctx, 3*pg, pg) })
	cancel(errStorage)
	wants(t, "who waits for another", soon(t, "the waiter", waiter), context.Canceled)
	// Its own fetch goes on, and no other begins.
	ctx, cancel = context.WithCancelCause(t.Context())
	own := started(func() error { return p.Fetch(ctx, 4*pg, 12*pg) })
	for range 8 {
		soon(t, "the source", src.entered)
	}
	wants(t, "Evict of what is fetched", p.Evict(15*pg, pg), mmap.ErrBusy)
	cancel(nil)
	close(src.let)
	wants(t, "a fetch", soon(t, "a fetch", own), context.Canceled)
	check(t, soon(t, "the first", first))
	if n := len(src.entered); n != 0 {
		t.Errorf("%d windows more are read", n)
	}
	check(t, testkit.Second(m.ReadAt(make([]byte, 9*pg), int64(3*pg)))) // eight have come
	wants(t, "the ninth", testkit.Second(m.ReadAt(make([]byte, 1), int64(12*pg))), paging.ErrAbsent)
	check(t, p.Evict(0, size))
}

// TestClose: Close waits for no source, and who is at work gets ErrClosed.
func TestClose(t *testing.T) {
	size := 16 * pg
	for name, s := range kinds(t, size) {
		for what, f := range map[string]func(m mmap.ReadWrite, p *paging.Pager) error{
			"Fetch":     func(_ mmap.ReadWrite, p *paging.Pager) error { return p.Fetch(t.Context(), 0, size) },
			"ReadAt":    func(_ mmap.ReadWrite, p *paging.Pager) error { return testkit.Second(p.ReadAt(make([]byte, size), 0)) },
			"ViewRange": func(_ mmap.ReadWrite, p *paging.Pager) error { return p.ViewRange(0, size, nil) },
			"View": func(_ mmap.ReadWrite, p *paging.Pager) error {
				return p.View(func(b []byte) error { b[0]++; return nil })
			},
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				src := newGate(size)
				m, p := paged[mmap.ReadWrite](t, s, src, paging.Window(pg))
				check(t, p.Evict(0, size))
				ended := started(func() error { return f(m, p) })
				soon(t, "the source", src.entered)
				closed := started(p.Close)
				check(t, soon(t, "Close", closed))
				close(src.let)
				wants(t, what, soon(t, what, ended), mmap.ErrClosed)
			})
		}
		t.Run(name+"/within View", func(t *testing.T) {
			m, p := paged[mmap.ReadWrite](t, s, newSource(size), paging.Window(pg))
			check(t, p.Evict(0, size))
			calls := 0
			err := p.View(func(b []byte) error {
				if b[0] == 0 {
					t.Error("an absent page reads as zeros")
				}
				if calls++; calls == 2 {
					check(t, m.Close())
				}
				if b[8*pg] == 0 { // the second time nobody fetches any more
					t.Error("an absent page reads as zeros")
				}
				if calls == 2 && b[9*pg] == 0 {
					t.Error("an absent page reads as zeros")
				}
				return nil
			})
			wants(t, "View", err, mmap.ErrClosed)
		})
		t.Run(name+"/within the source", func(t *testing.T) {
			src := &nested{}
			_, p := paged[mmap.ReadWrite](t, s, src, paging.Window(pg))
			check(t, p.Evict(0, size))
			src.read = func(b []byte, off int64) (int, error) {
				wants(t, "Evict of what is fetched", p.Evict(int(off), pg), mmap.ErrBusy)
				check(t, p.Evict(4*pg, pg))
				return len(b), p.Close()
			}
			wants(t, "ReadAt", testkit.Second(p.ReadAt(make([]byte, 1), 0)), mmap.ErrClosed)
		})
	}
}

// TestEvictBesideAll: what is held is left alone, what is next to it goes, and a window of which
// a part is held counts as held.
func TestEvictBesideAll(t *testing.T) {
	size := 12 * pg
	_, p := paged[mmap.ReadWrite](t, mmap.Anonymous(size), newSource(size), paging.Window(2*pg))
	for first := range 12 {
		for last := first; last < 12; last++ {
			check(t, p.ViewRange(first*pg, (last-first+1)*pg, func([]byte) error {
				for from := range 12 {
					for to := from; to < 12; to++ {
						err := p.Evict(from*pg, (to-from+1)*pg)
						if meets := from/2 <= last/2 && first/2 <= to/2; meets != errors.Is(err, mmap.ErrBusy) || !meets && err != nil {
							return fmt.Errorf("pages %d to %d are viewed, evict of %d to %d: %w", first, last, from, to, err)
						}
					}
				}
				return nil
			}))
		}
	}
	check(t, p.Evict(0, size))
}
