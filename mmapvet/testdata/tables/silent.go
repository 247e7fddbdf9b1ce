// Package tables has two elements of one table, which are two mappings: nothing is reported.
package tables

import (
	"container/list"
	"errors"
	"iter"
	"slices"

	"github.com/mmarinus/mmap"
)

type entry struct {
	m   mmap.ReadWrite
	pin *mmap.Pin
}

type table struct {
	byID map[int]mmap.ReadWrite
	ptrs map[int]*entry
	vals map[int]entry
	list []*entry
	hs   []mmap.ReadWrite
	pins map[int]*mmap.Pin
	lru  *list.List
}

func (t *table) at(i int) mmap.ReadWrite { return t.hs[i] }
func (t *table) get(i int) *entry        { return t.ptrs[i] }
func (t *table) all() iter.Seq[*entry]   { return slices.Values(t.list) }

func (t *table) handles(a, b int) error {
	m, err := mmap.Resize(t.byID[a], 10)
	if err != nil {
		return err
	}
	t.byID[a] = m
	return t.byID[b].Sync(0, 1)
}

func (t *table) pointers(a, b int) error {
	m, err := mmap.Resize(t.ptrs[a].m, 10)
	if err != nil {
		return err
	}
	err = t.ptrs[b].m.Sync(0, 1)
	t.ptrs[a].m = m
	return err
}

func (t *table) pointers2(a, b int) error {
	x, y := t.ptrs[a], t.ptrs[b]
	m, err := mmap.Resize(x.m, 10)
	if err != nil {
		return err
	}
	err = y.m.Sync(0, 1)
	x.m = m
	return err
}

func (t *table) values(a, b int) error {
	x, y := t.vals[a], t.vals[b]
	m, err := mmap.Resize(x.m, 10)
	if err != nil {
		return err
	}
	err = y.m.Sync(0, 1)
	t.vals[a] = entry{m: m}
	return err
}

func (t *table) byMethod(a, b int) error {
	m, err := mmap.Resize(t.at(a), 10)
	if err != nil {
		return err
	}
	t.hs[a] = m
	return t.at(b).Sync(0, 1)
}

func (t *table) byMethod2(a, b int) error {
	x := t.get(a)
	m, err := mmap.Resize(x.m, 10)
	if err != nil {
		return err
	}
	y := t.get(b)
	err = y.m.Sync(0, 1)
	x.m = m
	return err
}

func (t *table) twoPins(a, b int) (int, error) {
	t.pins[a].Unpin()
	return len(t.pins[b].Bytes()) + int(t.pins[b].Bytes()[0]), nil
}

func (t *table) twoPins2(a, b int) int {
	t.get(a).pin.Unpin()
	return int(t.get(b).pin.Bytes()[0])
}

func (t *table) loop() (err error) {
	for _, e := range t.list {
		if e.m, err = mmap.Resize(e.m, 10); err != nil {
			return err
		}
	}
	for _, e := range t.list {
		err = errors.Join(err, e.m.Sync(0, 1))
	}
	return err
}

func (t *table) mapLoop() (err error) {
	for id, m := range t.byID {
		n, err := mmap.Resize(m, 10)
		if err != nil {
			return err
		}
		t.byID[id] = n
	}
	for _, m := range t.byID {
		err = errors.Join(err, m.Sync(0, 1))
	}
	return err
}

func (t *table) seq() (err error) {
	for e := range t.all() {
		m, err := mmap.Resize(e.m, 10)
		if err != nil {
			return err
		}
		e.m = m
	}
	for e := range t.all() {
		err = errors.Join(err, e.m.Sync(0, 1))
	}
	return err
}

func (t *table) listed() error {
	front, back := t.lru.Front().Value.(*entry), t.lru.Back().Value.(*entry)
	m, err := mmap.Resize(front.m, 10)
	if err != nil {
		return err
	}
	err = back.m.Sync(0, 1)
	front.m = m
	return err
}

func (t *table) ends() error {
	first, last := t.list[0], t.list[len(t.list)-1]
	m, err := mmap.Resize(first.m, 10)
	if err != nil {
		return err
	}
	err = last.m.Sync(0, 1)
	first.m = m
	return err
}

func (t *table) viewed(a, b int) error {
	return t.get(a).m.View(func([]byte) error {
		y := t.get(b)
		m, err := mmap.Resize(y.m, 10)
		y.m = m
		return err
	})
}

func (t *table) viewed2(a, b int) error {
	return t.byID[a].View(func([]byte) error {
		m, err := mmap.Resize(t.byID[b], 10)
		t.byID[b] = m
		return err
	})
}

func (t *table) unsafely(a, b int) byte {
	x, y := t.byID[a], t.byID[b]
	p := x.UnsafeBytes()
	y.Close()
	return p[0]
}
