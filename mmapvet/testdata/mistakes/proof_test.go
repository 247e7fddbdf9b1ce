package mistakes

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/mmarinus/mmap"

	"data/proof"
)

func rw(t *testing.T) mmap.ReadWrite { return proof.Mapped[mmap.ReadWrite](t, 2*os.Getpagesize()) }

func ro(t *testing.T) mmap.Read { return proof.Text(t, 0, "some words\x00") }

// TestErrors: the call returns the error that the message names, or nothing.
func TestErrors(t *testing.T) {
	left, right, err := mmap.Split(proof.Mapped[mmap.Read](t, 2*os.Getpagesize()), os.Getpagesize())
	if err != nil {
		t.Fatal(err)
	}
	_, joining := joinUse(left, right)
	for name, err := range map[string]error{
		"rotate":   (&seg{m: rw(t)}).rotate(3 * os.Getpagesize()),
		"joinUse":  joining,
		"condMove": condMove(rw(t), proof.Far(t)),
	} {
		if !errors.Is(err, mmap.ErrMoved) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, n, err := releaseUse(rw(t)); n != 0 || err != nil {
		t.Error("releaseUse: ", n, err)
	}
	shut := proof.Mapped[mmap.Read](t, 1)
	shut.Close()
	pinned := ro(t)
	pinTwice(pinned, shut)
	_, shrinking := shrinkInView(rw(t))
	_, protecting := protectPinned(rw(t))
	_, again := mmap.Protect[mmap.None](pinned)
	for name, err := range map[string]error{
		"shrinkInView": shrinking, "protectPinned": protecting, "pinTwice": again,
	} {
		if !errors.Is(err, mmap.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLeft: a mapping is left, and nobody has it.
func TestLeft(t *testing.T) {
	short := proof.File(t, "short")
	f, err := os.OpenFile(short, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	frozen := rw(t)
	for name, c := range map[string]struct {
		f    func()
		more int
	}{
		"open2":    {func() { open2(short, "/no such file") }, 1}, //mmapvet:ignore ignored the mapping in there is what is proven
		"loopLeak": {func() { loopLeak([]string{short}) }, 1},
		"deferOld": {func() { deferOld(f) }, 1},
		"freeze":   {func() { freeze(frozen); frozen.Close() }, 0},
	} {
		if more := proof.Left(c.f); more != c.more {
			t.Errorf("%s: %d mappings are left", name, more)
		}
	}
	if frozen.Len() != 0 {
		t.Error("freeze: the old handle is good")
	}
}

var sink byte

// TestGone: what was kept is touched when the mapping is closed.
func TestGone(t *testing.T) {
	name := proof.File(t, "text")
	for name, f := range map[string]func() func(){
		"index": func() func() {
			s := &seg{m: rw(t)}
			defer s.m.Close()
			s.m.WriteAt([]byte("key\x00"), 0)
			s.index()
			return func() { sink = s.idx[0] }
		},
		"errorText": func() func() {
			m := ro(t)
			defer m.Close()
			err := errorText(m)
			return func() { _ = err.Error() }
		},
		"fill": func() func() {
			m := ro(t)
			defer m.Close()
			c := &cache{m: map[string][]byte{}}
			c.fill(m)
			return func() { sink = c.m["w"][0] }
		},
		"readAll":  func() func() { b, _ := readAll(name); return func() { sink = b[0] } },
		"unpinned": func() func() { return func() { unpinned(proof.Cut[mmap.Read](t, 0), []byte("key")) } },
	} {
		proof.Gone(t, name, f)
	}
}

// TestLater: a fault in another goroutine ends the program.
func TestLater(t *testing.T) {
	proof.Crashes(t, "async", func() {
		out := make(chan int, 10_000)
		for range 10_000 {
			m := ro(t)
			async(m, out)
			m.Close()
		}
		time.Sleep(2 * time.Second)
	})
	proof.Crashes(t, "timer", func() {
		var all []mmap.Read // so that something else can be at the places of few only
		for range 100 {
			m := ro(t)
			timer(m)
			all = append(all, m)
		}
		for _, m := range all {
			m.Close()
		}
		time.Sleep(4 * time.Second)
	})
}
