//go:build linux

package mmap

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap/procmaps"
)

var drains = flag.Int("drains", 1000, "how many Drains TestDrainStress makes")

// spin has goroutines look at a mapping in views without a pause until the result is
// called, and counts the views.
func spin(t testing.TB, goroutines int, length time.Duration, view func(f func(b []byte) error) error) (views *atomic.Int64, stop func()) {
	views = new(atomic.Int64)
	var in sync.WaitGroup
	end := make(chan struct{})
	for range goroutines {
		in.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				err := view(func([]byte) error {
					for begin := time.Now(); time.Since(begin) < length; {
					}
					return nil
				})
				if err == nil {
					views.Add(1)
				} else if !errors.Is(err, ErrMoved) {
					t.Error(err)
					return
				}
			}
		})
	}
	return views, sync.OnceFunc(func() { close(end); in.Wait() })
}

func noError(t testing.TB, err error) {
	if err != nil {
		t.Helper()
		t.Error(err)
	}
}

// within fails a test that takes too long.
func within(t testing.TB, what string, most time.Duration, f func()) {
	t.Helper()
	done := make(chan struct{})
	begin := time.Now()
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s does not end", what)
	}
	if took := time.Since(begin); took > most {
		t.Errorf("%s takes %v, more than %v", what, took, most)
	}
}

func TestDrain(t *testing.T) {
	m := mapped[Read](t, Anonymous(os.Getpagesize()))
	runs := 0
	fail := errors.New("fn's error")
	for _, want := range []error{nil, fail, ErrClosed} {
		if err := m.Drain(t.Context(), func() error { runs++; return want }); err != want {
			t.Errorf("Drain returns %v, not %v", err, want)
		}
	}
	if runs != 3 {
		t.Errorf("fn has run %d times", runs)
	}
	never := func() error { t.Error("fn runs"); return nil }
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Drain(done, never); !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "mmap: drain: ") {
		t.Errorf("with a ctx that is done: %v", err)
	}
	if err := (Read{}).Drain(t.Context(), never); !errors.Is(err, ErrClosed) {
		t.Errorf("a zero handle: %v", err)
	}
	next := must(Protect[Read](m))
	if err := m.Drain(t.Context(), never); !errors.Is(err, ErrMoved) {
		t.Errorf("a moved handle: %v", err)
	}
	if err := next.Drain(t.Context(), next.Close); err != nil {
		t.Error(err)
	}
	if err := next.Drain(t.Context(), never); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed handle: %v", err)
	}
}

// Readers that never pause keep no transition from its turn, and a transition keeps no
// reader from its.
func TestDrainBesideReaders(t *testing.T) {
	page := os.Getpagesize()
	t.Run("Protect", func(t *testing.T) {
		var now atomic.Pointer[Read]
		m := mapped[Read](t, Anonymous(page))
		now.Store(&m)
		views, stop := spin(t, 8, 50*time.Microsecond, func(f func([]byte) error) error { return now.Load().View(f) })
		defer stop()
		for n := 0; n < 50 || views.Load() < 200; n++ {
			old := *now.Load()
			if err := old.Drain(t.Context(), func() error {
				next, err := Protect[Read](old)
				if err == nil {
					now.Store(&next)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		check(t, now.Load().Close())
	})
	t.Run("ProtectRange of another page", func(t *testing.T) {
		u := must(MapUnknown(Anonymous(9*page), ProtRead))
		defer u.Close()
		views, stop := spin(t, 8, 50*time.Microsecond, func(f func([]byte) error) error { return u.ViewRange(0, page, f) })
		defer stop()
		for i := 0; i < 50 || views.Load() < 200; i++ {
			if err := u.Drain(t.Context(), func() error { return u.ProtectRange(8*page, page, Prot(i%4)) }); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("pins", func(t *testing.T) {
		m := mapped[Read](t, Anonymous(page))
		end := make(chan struct{})
		var in sync.WaitGroup
		for range 4 {
			in.Go(func() {
				for {
					select {
					case <-end:
						return
					default:
					}
					p, err := m.Pin()
					if err != nil {
						return
					}
					runtime.Gosched()
					p.Unpin()
				}
			})
		}
		for range 50 { // what a transition needs, and no change
			if err := m.Drain(t.Context(), func() error {
				err := m.acquire(0)
				if err == nil {
					m.giveUp()
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		close(end)
		in.Wait()
	})
}

// Drain waits for a pin, and holds new accesses back until fn has returned; afterwards
// they see what fn has made.
func TestDrainHolds(t *testing.T) {
	m := mapped[Read](t, Anonymous(os.Getpagesize()))
	p := must(m.Pin())
	ran, in, out := make(chan error), make(chan struct{}), make(chan struct{})
	var next ReadWrite
	go func() {
		ran <- m.Drain(t.Context(), func() (err error) {
			close(in)
			<-out
			next, err = Protect[ReadWrite](m)
			return err
		})
	}()
	select {
	case <-in:
		t.Fatal("fn runs beside a pin")
	case <-time.After(20 * time.Millisecond):
	}
	if err := p.Unpin(); err != nil {
		t.Fatal(err)
	}
	<-in
	looked := make(chan error)
	go func() { looked <- m.View(func([]byte) error { return nil }) }()
	close(out)
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	// It was held back, or came after; or the round had ended before.
	if err := <-looked; err != nil && !errors.Is(err, ErrMoved) {
		t.Error(err)
	}
	if err := next.Update(func(b []byte) error { b[0] = 1; return nil }); err != nil {
		t.Error(err)
	}
	next.Close()
}

// What waits for the caller itself is slow, and no deadlock.
func TestDrainOwnAccess(t *testing.T) {
	page := os.Getpagesize()
	nothing := func([]byte) error { return nil }
	t.Run("a view within a view", func(t *testing.T) {
		m := mapped[Read](t, Anonymous(page))
		within(t, "a view within a view", 10*time.Second, func() {
			drained := make(chan error)
			err := m.View(func([]byte) error {
				go func() { drained <- m.Drain(t.Context(), func() error { return nil }) }()
				for held := time.Duration(0); held < time.Millisecond/2; {
					begin := time.Now()
					if err := m.View(nothing); err != nil {
						return err
					}
					held = time.Since(begin)
				}
				return nil
			})
			if err := errors.Join(err, <-drained); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("an access by fn", func(t *testing.T) {
		m := mapped[Read](t, Anonymous(page))
		within(t, "an access by fn", 10*time.Second, func() {
			err := m.Drain(t.Context(), func() error { return errors.Join(m.View(nothing), m.Lock(0, page), m.Unlock(0, page)) })
			if err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, fs.ErrPermission) {
				t.Error(err)
			}
		})
	})
	t.Run("a pin", func(t *testing.T) {
		m := mapped[Read](t, Anonymous(page))
		p := must(m.Pin())
		defer p.Unpin()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := m.Drain(ctx, func() error { t.Error("fn runs"); return nil })
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "in the way: 1:") {
			t.Errorf("beside a pin of its own: %v", err)
		}
		within(t, "a view afterwards", time.Second, func() {
			if err := m.View(nothing); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestDrainWithinDrain(t *testing.T) {
	a, b := mapped[Read](t, Anonymous(1)), mapped[Read](t, Anonymous(1))
	both := func(m, n Read) error {
		return m.Drain(t.Context(), func() error { return n.Drain(t.Context(), func() error { return nil }) })
	}
	within(t, "a Drain within a Drain", 10*time.Second, func() {
		if err := both(a, a); err != nil {
			t.Error(err)
		}
	})
	within(t, "crosswise", 20*time.Second, func() {
		var in sync.WaitGroup
		for range 20 {
			in.Go(func() { noError(t, both(a, b)) })
			in.Go(func() { noError(t, both(b, a)) })
		}
		in.Wait()
	})
}

// However fn ends, it holds nobody back any more.
func TestDrainEnds(t *testing.T) {
	m := mapped[Read](t, Anonymous(1))
	for name, fn := range map[string]func() error{
		"panic":  func() error { panic("fn") },
		"Goexit": func() error { runtime.Goexit(); return nil },
		"error":  func() error { return os.ErrExist },
	} {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer func() { recover() }()
			m.Drain(t.Context(), fn)
		}()
		<-ended
		if err := m.Drain(t.Context(), func() error { return nil }); err != nil {
			t.Errorf("%s: and then: %v", name, err)
		}
	}
}

// Closing ends a Drain that waits, and Drain can close after the last reader.
func TestDrainClose(t *testing.T) {
	m := mapped[Read](t, Anonymous(1))
	p := must(m.Pin())
	drained := make(chan error)
	go func() { drained <- m.Drain(t.Context(), func() error { t.Error("fn runs"); return nil }) }()
	time.Sleep(5 * time.Millisecond)
	noError(t, m.Close())
	if err := <-drained; !errors.Is(err, ErrClosed) {
		t.Errorf("closed while it waits: %v", err)
	}
	p.Unpin()

	m = mapped[Read](t, Anonymous(os.Getpagesize()))
	addr := m.Addr()
	p = must(m.Pin())
	go func() { drained <- m.Drain(t.Context(), m.Close) }()
	time.Sleep(5 * time.Millisecond)
	if p.Bytes()[0] != 0 || m.Len() == 0 {
		t.Error("it is closed beside a pin")
	}
	p.Unpin()
	noError(t, <-drained)
	table := must(procmaps.Open(os.Getpid()))
	defer table.Close()
	if _, there, err := table.At(uint64(addr)); there || err != nil {
		t.Errorf("it is mapped after the last reader: %v", err)
	}
}

// fn runs again only where it was refused and has done nothing.
func TestDrainAgain(t *testing.T) {
	page := os.Getpagesize()
	m := mapped[Read](t, Anonymous(page))
	runs := 0
	if err := m.Drain(t.Context(), func() error {
		if runs++; runs < 3 {
			return ErrBusy
		}
		return nil
	}); err != nil || runs != 3 {
		t.Errorf("%d runs: %v", runs, err)
	}
	runs = 0
	var next Read
	if err := m.Drain(t.Context(), func() (err error) {
		runs++
		next, err = Protect[Read](m)
		return errors.Join(err, ErrBusy)
	}); !errors.Is(err, ErrBusy) || runs != 1 {
		t.Errorf("consumed: %d runs: %v", runs, err)
	}
	next.Close()
	u := must(MapUnknown(Anonymous(page), ProtRead))
	defer u.Close()
	for name, change := range map[string]func() error{
		"Protect": func() error { return u.Protect(ProtNone) },
		"Place":   func() error { return u.Place(0, Anonymous(page), ProtRead) },
	} {
		runs = 0
		if err := u.Drain(t.Context(), func() error {
			runs++
			return errors.Join(change(), ErrBusy)
		}); !errors.Is(err, ErrBusy) || runs != 1 {
			t.Errorf("%s: %d runs: %v", name, runs, err)
		}
	}
	runs = 0
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := u.Drain(ctx, func() error {
		runs++
		return errors.Join(u.ProtectRange(-1, 1, ProtRead), ErrBusy)
	}); !errors.Is(err, context.DeadlineExceeded) || runs < 2 {
		t.Errorf("refused only: %d runs: %v", runs, err)
	}
}

// Many Drains beside everything else: views, pins, closing, the collector.
func TestDrainStress(t *testing.T) {
	rounds := *drains
	if testing.Short() {
		rounds = min(rounds, 200)
	}
	page := os.Getpagesize()
	var now atomic.Pointer[ReadWrite]
	fresh := func() {
		m, err := Map[ReadWrite](Anonymous(page))
		noError(t, err)
		now.Store(&m)
	}
	fresh()
	end := make(chan struct{})
	var in sync.WaitGroup
	run := func(f func(m ReadWrite)) {
		in.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
					f(*now.Load())
				}
			}
		})
	}
	for range 3 {
		run(func(m ReadWrite) { m.View(func(b []byte) error { _ = b[0]; return nil }) })
	}
	run(func(m ReadWrite) {
		m.View(func(b []byte) error {
			return m.View(func(c []byte) error {
				if &b[0] != &c[0] {
					t.Error("it has moved under a view")
				}
				return nil
			})
		})
	})
	run(func(m ReadWrite) {
		if p, err := m.Pin(); err == nil {
			runtime.Gosched()
			_ = p.Bytes()[0]
			noError(t, p.Unpin())
		}
	})
	run(func(ReadWrite) { time.Sleep(20 * time.Millisecond); runtime.GC() })
	var drained atomic.Int64
	for i := range 2 {
		in.Go(func() {
			for n := 0; drained.Load() < int64(rounds); n++ {
				m := *now.Load()
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				err := m.Drain(ctx, func() error {
					if n%16 == i { // lost, or closed, and another takes its place
						if n%32 == i {
							noError(t, m.Close())
						}
						fresh()
						return nil
					}
					next, err := Protect[ReadWrite](m)
					if err == nil {
						now.Store(&next)
					}
					return err
				})
				cancel()
				if err == nil {
					drained.Add(1)
				} else if !errors.Is(err, ErrClosed) && !errors.Is(err, ErrMoved) {
					t.Errorf("drain %d: %v", n, err)
					return
				}
			}
		})
	}
	for drained.Load() < int64(rounds) && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	close(end)
	in.Wait()
	now.Load().Close()
}

// BenchmarkDrainBesideReaders is a Drain and a transition beside eight goroutines that
// spin in views of 100 µs. readers-kept is their throughput in relation to the same time
// without Drain.
func BenchmarkDrainBesideReaders(b *testing.B) {
	var now atomic.Pointer[Read]
	m := mapped[Read](b, Anonymous(os.Getpagesize()))
	now.Store(&m)
	readers := func() (*atomic.Int64, func()) {
		return spin(b, 8, 100*time.Microsecond, func(f func([]byte) error) error { return now.Load().View(f) })
	}
	with, stop := readers()
	begin := time.Now()
	for b.Loop() {
		old := *now.Load()
		noError(b, old.Drain(context.Background(), func() error {
			next, err := Protect[Read](old)
			if err == nil {
				now.Store(&next)
			}
			return err
		}))
	}
	took := time.Since(begin)
	stop()
	without, stop := readers()
	time.Sleep(took)
	stop()
	b.ReportMetric(float64(b.N)/took.Seconds(), "drains/s")
	b.ReportMetric(float64(with.Load())/float64(without.Load()), "readers-kept")
	now.Load().Close()
}
