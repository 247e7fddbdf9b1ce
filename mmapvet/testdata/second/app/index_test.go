package app

import (
	"io"
	"reflect"
	"testing"
	"time"

	"data/proof"
	"data/second/store"

	"github.com/mmarinus/mmap"
)

var sink byte

const content = "version=1 and more of it\nkey=value\n"

// TestIndex: what the index keeps is touched when its mapping is closed.
func TestIndex(t *testing.T) {
	for name, f := range map[string]struct {
		load  func(ix *Index) error
		touch func(ix *Index)
	}{
		"LoadTerms":    {(*Index).LoadTerms, func(ix *Index) { sink = ix.terms[0][0] }},
		"LoadPostings": {func(ix *Index) error { return ix.LoadPostings(0, 8) }, func(ix *Index) { sink = byte(ix.postings[0]) }},
		"LoadRaw":      {(*Index).LoadRaw, func(ix *Index) { sink = ix.raw["key"][0] }},
		"CacheHead":    {(*Index).CacheHead, func(ix *Index) { sink = cached(ix, "head")[0] }},
		"CacheAll":     {(*Index).CacheAll, func(ix *Index) { sink = cached(ix, "")[0] }},
	} {
		proof.Gone(t, name, func() func() {
			ix := &Index{m: proof.Text(t, 0, content), raw: map[string][]byte{}}
			defer ix.Close()
			f.load(ix) // LoadRaw fails at the end of the text
			return func() { f.touch(ix) }
		})
	}
}

// cached is what a cache has, which does not say it.
func cached(ix *Index, key string) []byte {
	return reflect.ValueOf(&ix.cache).Elem().FieldByName("m").MapIndex(reflect.ValueOf(key)).Bytes()
}

// TestKept: what is returned, sent or stored is touched when the mapping is closed.
func TestKept(t *testing.T) {
	for name, f := range map[string]func(m mmap.Read) (touch func()){
		"Head":   func(m mmap.Read) func() { b, _ := Head(m); return func() { sink = b[0] } },
		"Getter": func(m mmap.Read) func() { get, _ := Getter(m); return func() { sink = get(1) } },
		"Tail":   func(m mmap.Read) func() { r, _ := Tail(m); return func() { io.ReadAll(r) } },
		"Feed": func(m mmap.Read) func() {
			lines := make(chan []byte, 10)
			Feed(m, lines)
			return func() { sink = (<-lines)[0] }
		},
		"Version": func(m mmap.Read) func() { v, _ := Version(m); return func() { sink = v[0] } },
		"First": func(m mmap.Read) func() {
			r, _ := First(m, 0x73726576) // what the text begins with
			return func() { sink = byte(r.Size) }
		},
		"Share": func(m mmap.Read) func() {
			Share("m", m)
			return func() { v, _ := shared.Load("m"); sink = v.([]byte)[0] }
		},
	} {
		proof.Gone(t, name, func() func() {
			m := proof.Text(t, 0, content)
			defer m.Close()
			return f(m)
		})
	}
}

// TestRecords: the same of what a database lends.
func TestRecords(t *testing.T) {
	// A header, and what is both: an entry with a key of one byte, and a record of one byte.
	const file = "\x21\x00\x00\x00\x00\x00\x00\x00magical \x01\x00\x00\x00\x01\x00\x00\x00kvvvvvvvv"
	for name, f := range map[string]func(db *store.DB) (touch func()){
		"Entries": func(db *store.DB) func() {
			all, _ := Entries(db)
			return func() { sink = all[0].Key[0] }
		},
		"AllRecords": func(db *store.DB) func() {
			all, _ := AllRecords(db)
			return func() { sink = all[0][0] }
		},
	} {
		proof.Gone(t, name, func() func() {
			db, err := store.OpenDB(proof.File(t, file))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			return f(db)
		})
	}
}

// TestWarm: a fault in another goroutine ends the program.
func TestWarm(t *testing.T) {
	proof.Crashes(t, "Warm", func() {
		for range 10_000 {
			m := proof.Text(t, 0, content)
			Warm(m, new(uint32))
			m.Close()
		}
		time.Sleep(2 * time.Second)
	})
}
