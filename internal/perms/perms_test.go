//go:build linux

package perms

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// small is the size of a small page, and huge that of a huge one, here.
const small, huge = 16, 64

// A model has the kind of each small page.
type model struct {
	p     Pages
	pages []Kind
}

func (m *model) data() int { return len(m.pages) - int(m.p.Room/small) }

// TestAccount runs random sequences of changes beside a list of pages.
func TestAccount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := drawKind(t)
		n, room := rapid.IntRange(0, 4).Draw(t, "pages"), rapid.IntRange(0, 4).Draw(t, "reserve")
		base := uintptr(rapid.IntRange(0, 7).Draw(t, "base") * small)
		if kind.Granule == huge {
			base -= base % huge
			n, room = n*huge/small, room*huge/small
		}
		m := &model{p: Uniform(base, uintptr(n+room)*small, uintptr(room)*small, kind), pages: slices.Repeat([]Kind{kind}, n+room)}
		t.Repeat(map[string]func(*rapid.T){
			"":        m.check,
			"protect": m.protect,
			"alter":   m.alter,
			"clip":    m.clip,
			"grow":    m.grow,
			"set all": m.setAll,
		})
	})
}

func drawKind(t *rapid.T) Kind {
	k := Kind{Prot: Prot(rapid.IntRange(0, 7).Draw(t, "prot")), Granule: small, Flags: uint32(rapid.IntRange(0, 2).Draw(t, "flags"))}
	if rapid.Bool().Draw(t, "huge") {
		k.Granule = huge
	}
	return k
}

func (m *model) check(t *rapid.T) {
	all := All
	for i, want := range m.pages {
		off := uintptr(i) * small
		all &= want.Prot
		if got := m.p.At(off); got != want {
			t.Fatalf("page %d is %+v, want %+v", i, got, want)
		}
		address := m.p.Base + off
		start, end := address&^(want.Granule-1), address&^(want.Granule-1)+want.Granule
		for in := uintptr(0); in < small; in++ {
			if got := m.p.PageStart(off+in) + m.p.Base; got != max(start, m.p.Base) {
				t.Fatalf("the page of %d begins at %#x, want %#x", off+in, got, start)
			}
			if got := m.p.PageEnd(off+in+1) + m.p.Base; got != end {
				t.Fatalf("the page before %d ends at %#x, want %#x", off+in+1, got, end)
			}
			if got, want := m.p.Boundary(off+in), (address+in)%want.Granule == 0; got != want {
				t.Fatalf("a page begins at %d: %v", off+in, got)
			}
		}
	}
	if m.p.PageEnd(0) != 0 || m.p.Data() != uintptr(m.data())*small {
		t.Fatalf("page end %d, data %d", m.p.PageEnd(0), m.p.Data())
	}
	if len(m.pages) == 0 {
		return
	}
	if m.p.Plain().Prot != all {
		t.Fatalf("every page allows %v, want %v", m.p.Plain().Prot, all)
	}
	same := !slices.ContainsFunc(m.pages, func(k Kind) bool { return k != m.pages[0] })
	if uniform := m.p.IsUniform(); uniform && !same || same && !uniform && m.pages[0] == m.p.Plain() {
		t.Fatalf("uniform: %v, %v", uniform, m.pages)
	}
	size := slices.MaxFunc(m.pages, func(a, b Kind) int { return int(a.Granule) - int(b.Granule) }).Granule
	if got := m.p.Largest(); got != size {
		t.Fatalf("the largest page has %d bytes, want %d", got, size)
	}
	next, last := uintptr(0), Kind{Flags: 99}
	m.p.Each(0, m.p.Size, func(start, end uintptr, k Kind) {
		if start != next || end <= start || k == last {
			t.Fatalf("a stretch of %d to %d, %+v, after one to %d, %+v", start, end, k, next, last)
		}
		next, last = end, k
	})
	if next != m.p.Size {
		t.Fatalf("the stretches end at %d of %d", next, m.p.Size)
	}
}

// draw draws a range of the data.
func (m *model) draw(t *rapid.T) (start, end int) {
	start = rapid.IntRange(0, m.data()).Draw(t, "start")
	return start, rapid.IntRange(start, m.data()).Draw(t, "end")
}

// set sets pages, and the permissions of the reserve behind the last.
func (m *model) set(start, end int, change func(Kind) Kind) {
	for i := start; i < end; i++ {
		m.pages[i] = change(m.pages[i])
	}
	if end == m.data() && end > start {
		for i := end; i < len(m.pages); i++ {
			m.pages[i].Prot = m.pages[end-1].Prot
		}
	}
}

func (m *model) protect(t *rapid.T) {
	start, end := m.draw(t)
	prot := drawKind(t).Prot
	m.p.Protect(uintptr(start)*small, uintptr(end)*small, prot)
	if start == 0 && m.data() == 0 && m.p.IsUniform() { // those to come have them
		for i := range m.pages {
			m.pages[i].Prot = prot
		}
	}
	m.set(start, end, func(k Kind) Kind { k.Prot = prot; return k })
}

func (m *model) alter(t *rapid.T) {
	start, end := m.draw(t)
	kind := drawKind(t)
	if kind.Granule == huge { // of whole ones
		for (int(m.p.Base)+start*small)%huge != 0 && start < end {
			start++
		}
		for (int(m.p.Base)+end*small)%huge != 0 && start < end {
			end--
		}
	}
	if start == end {
		return
	}
	m.p.Alter(uintptr(start)*small, uintptr(end)*small, func(Kind) Kind { return kind })
	m.set(start, end, func(Kind) Kind { return kind })
}

// clip makes the range that of a part of its pages.
func (m *model) clip(t *rapid.T) {
	start, end := m.draw(t)
	if start == end || rapid.IntRange(0, 3).Draw(t, "clip") > 0 {
		return
	}
	runs := m.p.Clip(uintptr(start)*small, uintptr(end)*small)
	m.p.Base, m.p.Size, m.p.Room = m.p.Base+uintptr(start)*small, uintptr(end-start)*small, 0
	m.p.SetRuns(runs)
	m.pages = m.pages[start:end:end]
}

// grow makes data of reserve.
func (m *model) grow(t *rapid.T) {
	m.p.Room = uintptr(rapid.IntRange(0, int(m.p.Room/small)).Draw(t, "room")) * small
}

func (m *model) setAll(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "set all") > 0 {
		return
	}
	kind := drawKind(t)
	kind.Granule = small
	m.p.SetAll(kind)
	for i := range m.pages {
		m.pages[i] = kind
	}
}

// The address of a page can be anything, and what is rounded is the address.
func TestRounded(t *testing.T) {
	p := Uniform(5*small, 100, 0, Kind{Granule: small})
	for off := range uintptr(200) {
		got := p.Rounded(off, huge)
		if (p.Base+got)%huge != 0 || got < off || got-off >= huge {
			t.Fatalf("%d from %#x is rounded to %d", off, p.Base, got)
		}
	}
}

func TestString(t *testing.T) {
	for p, want := range map[Prot]string{0: "---", Read: "r--", Write: "-w-", Exec: "--x", Read | Exec: "r-x", All: "rwx"} {
		if got := p.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Neighbours of one kind are one run.
func TestAppend(t *testing.T) {
	a, b := Kind{1, small, 0}, Kind{2, small, 0}
	runs := Append(Append(Append(nil, 16, a), 32, a), 48, b)
	if want := []Run{{32, a}, {48, b}}; !slices.Equal(runs, want) {
		t.Errorf("%v, want %v", runs, want)
	}
}
