package mmapvet

import (
	"iter"
	"slices"

	"golang.org/x/tools/go/ssa"
)

// A dict is a map by term. States are copied at each branch, and most of what they know is
// little, so it is a slice in the order of the terms' numbers, which copies share until one
// of them writes.
type dict[V comparable] struct {
	rows   []row[V]
	shared bool
}

type row[V comparable] struct {
	key   *term
	value V
}

// find returns where a term is, or would be.
func (d *dict[V]) find(k *term) (int, bool) {
	low, high := 0, len(d.rows)
	for low < high {
		if middle := int(uint(low+high) >> 1); d.rows[middle].key.id < k.id {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, low < len(d.rows) && d.rows[low].key == k
}

// get returns the value of a term, the zero value if it has none.
func (d *dict[V]) get(k *term) V {
	v, _ := d.lookup(k)
	return v
}

func (d *dict[V]) lookup(k *term) (v V, ok bool) {
	if len(d.rows) == 0 || k == nil {
		return v, false
	}
	i, ok := d.find(k)
	if ok {
		v = d.rows[i].value
	}
	return v, ok
}

func (d *dict[V]) has(k *term) bool {
	_, ok := d.lookup(k)
	return ok
}

func (d *dict[V]) set(k *term, v V) {
	i, ok := d.find(k)
	if ok && d.rows[i].value == v {
		return
	}
	if d.shared {
		d.rows = append(make([]row[V], 0, len(d.rows)+4), d.rows...)
		d.shared = false
	}
	if ok {
		d.rows[i].value = v
	} else {
		d.rows = slices.Insert(d.rows, i, row[V]{k, v})
	}
}

func (d *dict[V]) delete(k *term) {
	if d.has(k) {
		d.keep(func(other *term, _ V) bool { return other != k })
	}
}

// keep drops the rows that a function does not want to keep.
func (d *dict[V]) keep(wanted func(*term, V) bool) {
	for i, r := range d.rows {
		if wanted(r.key, r.value) {
			continue
		}
		rows := d.rows[:i]
		if d.shared {
			rows = append(make([]row[V], 0, len(d.rows)), rows...)
		}
		for _, r := range d.rows[i+1:] {
			if wanted(r.key, r.value) {
				rows = append(rows, r)
			}
		}
		d.rows, d.shared = rows, false
		return
	}
}

// all returns the rows. Meanwhile nothing may be written.
func (d *dict[V]) all() iter.Seq2[*term, V] {
	return func(yield func(*term, V) bool) {
		for i := range d.rows {
			if !yield(d.rows[i].key, d.rows[i].value) {
				return
			}
		}
	}
}

// each returns the rows that there are now, whatever is written meanwhile.
func (d *dict[V]) each() iter.Seq2[*term, V] {
	now := d.clone()
	return now.all()
}

// clone returns a copy.
func (d *dict[V]) clone() dict[V] {
	d.shared = true
	return *d
}

// A register is a value of a function in the SSA form.
type register struct {
	id    int // in the walk
	fn    *ssa.Function
	index int // in the function, as its layout counts
}

// registers are the values of registers, kept as a dict is.
type registers struct {
	rows   []registerRow
	shared bool
}

type registerRow struct {
	*register
	value *term
}

func (r *registers) find(id int) (int, bool) {
	return slices.BinarySearchFunc(r.rows, id, func(row registerRow, id int) int { return row.id - id })
}

// get returns the value of a register, nil if it has none.
func (r *registers) get(k *register) *term {
	if i, ok := r.find(k.id); ok {
		return r.rows[i].value
	}
	return nil
}

func (r *registers) set(k *register, v *term) {
	i, ok := r.find(k.id)
	if ok && r.rows[i].value == v {
		return
	}
	r.own()
	if ok {
		r.rows[i].value = v
	} else {
		r.rows = slices.Insert(r.rows, i, registerRow{k, v})
	}
}

// drop drops the registers of a function, but for those to keep.
func (r *registers) drop(fn *ssa.Function, keep func(index int) bool) {
	unwanted := func(row registerRow) bool { return row.fn == fn && !keep(row.index) }
	if !slices.ContainsFunc(r.rows, unwanted) {
		return
	}
	r.own()
	r.rows = slices.DeleteFunc(r.rows, unwanted)
}

func (r *registers) clone() registers {
	r.shared = true
	return *r
}

// own makes the rows its own, to be changed.
func (r *registers) own() {
	if r.shared {
		r.rows, r.shared = append(make([]registerRow, 0, len(r.rows)+8), r.rows...), false
	}
}

// A numberSet is a set of small numbers, kept as a dict is.
type numberSet struct {
	words  []uint64
	shared bool
}

// add adds a number, and reports whether it was there already.
func (b *numberSet) add(n int) (there bool) {
	word, bit := n/64, uint64(1)<<(n%64)
	if word < len(b.words) && b.words[word]&bit != 0 {
		return true
	}
	if b.shared || word >= len(b.words) {
		b.words = append(make([]uint64, 0, max(len(b.words), word+4)), b.words...)
		b.words = b.words[:cap(b.words)]
		b.shared = false
	}
	b.words[word] |= bit
	return false
}

func (b *numberSet) clone() numberSet {
	b.shared = true
	return *b
}
