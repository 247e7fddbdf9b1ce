package app

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"data/second/store"

	"github.com/mmarinus/mmap"
)

// An Index is a search index over a mapping.
type Index struct {
	m        mmap.Read
	terms    [][]byte
	names    []string
	postings []uint32
	byTerm   map[string][]uint32
	raw      map[string][]byte
	scratch  []byte
	cache    store.LRU
}

// NewIndex makes an index of a file. Right: the Index has the mapping.
func NewIndex(path string) (*Index, error) {
	m, err := store.Open(path)
	if err != nil {
		return nil, err
	}
	return &Index{m: m, byTerm: map[string][]uint32{}, raw: map[string][]byte{}}, nil
}

// Close ends the index.
func (ix *Index) Close() error { return ix.m.Close() }

// LoadTerms cuts the words out.
//
// Wrong: bytes.Fields returns headers into the mapping, and ix keeps them.
func (ix *Index) LoadTerms() error {
	return ix.m.View(func(b []byte) error {
		ix.terms = bytes.Fields(b) // want `escape: `
		return nil
	})
}

// LoadNames cuts the words out as strings. Right: strings.Fields works on the
// copy that the conversion makes.
func (ix *Index) LoadNames() error {
	return ix.m.View(func(b []byte) error {
		ix.names = strings.Fields(string(b))
		for i, t := range bytes.Split(b, []byte{'\n'}) {
			if i < len(ix.names) && len(t) > 0 {
				ix.names[i] += strings.Clone(unsafe.String(&t[0], len(t)))
			}
		}
		return nil
	})
}

// LoadPostings reads numbers.
//
// Wrong: Slice shares the memory, and the field keeps it.
func (ix *Index) LoadPostings(off, n int) error {
	return ix.m.ViewRange(off, n, func(b []byte) error {
		p, err := mmap.Slice[uint32](b)
		if err != nil {
			return err
		}
		ix.postings = p[1:] // want `escape: `
		return nil
	})
}

// LoadPostingsRight reads numbers. Right: the numbers are appended, not the
// slice.
func (ix *Index) LoadPostingsRight(off, n int) error {
	return ix.m.ViewRange(off, n, func(b []byte) error {
		p, err := mmap.Slice[uint32](b)
		if err != nil {
			return err
		}
		if len(p) == 0 {
			return io.ErrUnexpectedEOF
		}
		ix.postings = append(ix.postings[:0], p...)
		ix.byTerm[string(b[:4])] = slices.Clone(p[1:])
		slices.Sort(ix.postings)
		return nil
	})
}

// LoadRaw keeps sections by name.
//
// Wrong: the key is a copy, the value of the map is not.
func (ix *Index) LoadRaw() error {
	return ix.m.View(func(b []byte) error {
		for line := range bytes.Lines(b) {
			k, v, ok := bytes.Cut(line, []byte("="))
			if !ok {
				return fmt.Errorf("index: no = in %q", line)
			}
			ix.raw[string(k)] = v // want `escape: `
		}
		return nil
	})
}

// LoadRawRight keeps sections by name. Right: ToLower and Join copy.
func (ix *Index) LoadRawRight() error {
	return ix.m.View(func(b []byte) error {
		for line := range bytes.Lines(b) {
			k, v, ok := bytes.Cut(line, []byte("="))
			if !ok {
				return fmt.Errorf("index: no = in %q", line)
			}
			ix.raw[string(k)] = bytes.ToLower(v)
			ix.raw["all"] = bytes.Join([][]byte{ix.raw["all"], v}, []byte(" "))
		}
		return nil
	})
}

// Lookup searches with a field that holds the bytes for a while. Right: the
// deferred function takes them out before the view ends.
func (ix *Index) Lookup(term string) (pos int, err error) {
	err = ix.m.View(func(b []byte) error {
		ix.scratch = b
		defer func() { ix.scratch = nil }()
		pos = ix.find(term)
		return nil
	})
	return pos, err
}

func (ix *Index) find(term string) int { return bytes.Index(ix.scratch, []byte(term)) }

// CacheHead gives the head of the file to the cache of another package.
//
// Wrong: LRU.Put keeps the slice itself.
func (ix *Index) CacheHead() error {
	return ix.m.ViewRange(0, 64, func(b []byte) error {
		ix.cache.Put("head", b) // want `escape: `
		return nil
	})
}

// CacheHeadRight is CacheHead as it should be. Right: PutCopy copies.
func (ix *Index) CacheHeadRight() error {
	return ix.m.ViewRange(0, 64, func(b []byte) error {
		ix.cache.PutCopy("head", b)
		return nil
	})
}

// CacheAll uses methods as callbacks.
//
// Wrong: Load keeps what View lends it.
func (ix *Index) CacheAll() error {
	if err := ix.m.View(ix.cache.LoadCopy); err != nil {
		return err
	}
	return ix.m.View(ix.cache.Load) // want `escape: `
}

// Entries parses entries from a database.
//
// Wrong: an Entry leads to the bytes that db.View lends, through a lender and a
// function that both are in another package.
func Entries(db *store.DB) (all []store.Entry, err error) {
	err = db.View(func(tx []byte) error {
		for len(tx) > 0 {
			e, err := store.ParseEntry(tx)
			if err != nil {
				return err
			}
			all = append(all, e) // want `escape: `
			tx = tx[8+len(e.Key)+len(e.Value):]
		}
		return nil
	})
	return all, err
}

// EntriesRight is Entries as it should be. Right: Clone, and of others only
// numbers.
func EntriesRight(db *store.DB) (all []store.Entry, newest uint32, err error) {
	err = db.View(func(tx []byte) error {
		for len(tx) > 0 {
			e, err := store.ParseEntry(tx)
			if err != nil {
				return err
			}
			all = append(all, e.Clone())
			newest = max(newest, e.Version)
			tx = tx[8+len(e.Key)+len(e.Value):]
		}
		return nil
	})
	return all, newest, err
}

// AllRecords collects what the iterator of another package lends.
//
// Wrong: a record is valid in the body of the loop only.
func AllRecords(db *store.DB) (recs [][]byte, err error) {
	for rec := range db.Records(&err) {
		recs = append(recs, rec) // want `escape: `
	}
	return recs, err
}

// AllRecordsRight collects copies. Right: append of the bytes copies them, and
// so do arrays.
func AllRecordsRight(db *store.DB) (flat []byte, ids [][4]byte, err error) {
	for rec := range db.Records(&err) {
		flat = append(flat, rec...)
		if len(rec) >= 4 {
			ids = append(ids, [4]byte(rec))
		}
	}
	return flat, ids, err
}

// Head returns the first bytes through a generic function.
//
// Wrong: With hands the result of the literal on, and it leads to the memory.
func Head(m mmap.Read) ([]byte, error) {
	return store.With(m, func(b []byte) ([]byte, error) {
		if len(b) < 16 {
			return nil, io.ErrUnexpectedEOF
		}
		return b[:16], nil // want `escape: `
	})
}

// HeadRight parses the first bytes. Right: a Header holds copies.
func HeadRight(m mmap.Read) (store.Header, error) {
	return store.With(m, func(b []byte) (store.Header, error) {
		return store.ParseHeader(b)
	})
}

// Getter returns a function that reads one byte.
//
// Wrong: the literal captures the bytes and is called after the view.
func Getter(m mmap.Read) (get func(i int) byte, err error) {
	err = m.View(func(b []byte) error {
		get = func(i int) byte { return b[i] } // want `escape: `
		return nil
	})
	return get, err
}

// Tail returns a reader of the last line.
//
// Wrong: bytes.NewReader keeps the slice and copies nothing until Read.
func Tail(m mmap.Read) (io.Reader, error) {
	var r io.Reader
	err := m.View(func(b []byte) error {
		r = bytes.NewReader(b[bytes.LastIndexByte(b, '\n')+1:]) // want `escape: `
		return nil
	})
	return r, err
}

// TailRight returns a reader of the mapping itself. Right: SectionReader copies
// by ReadAt, and whoever has r has the mapping, too.
func TailRight(m mmap.Read) (r *io.SectionReader, err error) {
	err = m.View(func(b []byte) error {
		at := bytes.LastIndexByte(b, '\n') + 1
		r = io.NewSectionReader(m, int64(at), int64(len(b)-at))
		return nil
	})
	return r, err
}

// Feed sends lines to a worker.
//
// Wrong: the worker takes them out of the channel's buffer after the view.
func Feed(m mmap.Read, lines chan<- []byte) error {
	return m.View(func(b []byte) error {
		for line := range bytes.Lines(b) {
			lines <- line // want `escape: `
		}
		return nil
	})
}

// FeedRight sends lines to workers. Right: what is sent is a string.
func FeedRight(m mmap.Read, lines chan<- string) error {
	defer close(lines)
	return m.View(func(b []byte) error {
		for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
			lines <- sc.Text()
		}
		return nil
	})
}

// Warm hashes in the background.
//
// Wrong: nobody waits for the goroutine before the view ends, and its fault
// would end the program.
func Warm(m mmap.Read, sum *uint32) (wait func(), err error) {
	done := make(chan struct{})
	err = m.View(func(b []byte) error {
		go func() { // want `escape: `
			defer close(done)
			h := fnv.New32a()
			h.Write(b)
			*sum = h.Sum32()
		}()
		return nil
	})
	return func() { <-done }, err
}

// WarmRight hashes in the background and waits. Right: by a channel, within the
// view.
func WarmRight(m mmap.Read) (sum uint32, err error) {
	err = m.View(func(b []byte) error {
		done := make(chan uint32)
		go func() {
			h := fnv.New32a()
			h.Write(b)
			done <- h.Sum32()
		}()
		sum = <-done
		return nil
	})
	return sum, err
}

var version = regexp.MustCompile(`version=(\w+)`)

// Version finds the version in a file.
//
// Wrong: FindSubmatch returns parts of its argument.
func Version(m mmap.Read) ([]byte, error) {
	var v []byte
	err := m.View(func(b []byte) error {
		if sub := version.FindSubmatch(b); sub != nil {
			v = sub[1] // want `escape: `
		}
		return nil
	})
	return v, err
}

// VersionRight finds the version in a file. Right: positions are numbers.
func VersionRight(m mmap.Read) (v string, at int, err error) {
	err = m.View(func(b []byte) error {
		if loc := version.FindSubmatchIndex(b); loc != nil {
			v, at = fmt.Sprintf("%s", b[loc[2]:loc[3]]), loc[2]
		}
		return nil
	})
	return v, at, err
}

// A Config is read from JSON.
type Config struct {
	Name  string          `json:"name"`
	Extra json.RawMessage `json:"extra"`
	Blob  []byte          `json:"blob"`
}

// ReadConfig decodes. Right: the decoder copies, RawMessage too, and a table
// read by csv is of strings.
func ReadConfig(m mmap.Read, table mmap.Read) (c Config, rows [][]string, err error) {
	err = m.View(func(b []byte) error { return json.Unmarshal(b, &c) })
	if err != nil {
		return c, nil, err
	}
	err = table.View(func(b []byte) error {
		rows, err = csv.NewReader(bytes.NewReader(b)).ReadAll()
		return err
	})
	return c, rows, err
}

type record struct {
	ID, Size uint32
	Stamp    uint64
}

// First finds a record.
//
// Wrong: an element's pointer leads into the mapping.
func First(m mmap.Read, id uint32) (found *record, err error) {
	err = m.View(func(b []byte) error {
		recs, err := mmap.Slice[record](b)
		if err != nil {
			return err
		}
		for i := range recs {
			if recs[i].ID == id {
				found = &recs[i] // want `escape: `
				return nil
			}
		}
		return errors.New("no such record")
	})
	return found, err
}

// FirstRight finds a record. Right: rec is a copy, and a pointer to it leads to
// the Go heap.
func FirstRight(m mmap.Read, id uint32) (found *record, err error) {
	err = m.View(func(b []byte) error {
		recs, err := mmap.Slice[record](b)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			if rec.ID == id {
				found = &rec
				return nil
			}
		}
		return errors.New("no such record")
	})
	return found, err
}

var shared sync.Map

// Share shows the newest page to everybody.
//
// Wrong: the sync.Map keeps the slice for readers that come after the view.
func Share(name string, m mmap.Read) error {
	return m.ViewRange(0, page, func(b []byte) error {
		shared.Store(name, b[:page/2]) // want `escape: `
		return nil
	})
}

// Dump writes a mapping out, and counts. Right: a Writer keeps nothing, and
// what is decoded is a number.
func Dump(w io.Writer, m mmap.Read) (n int, total uint64, err error) {
	var buf bytes.Buffer
	err = m.View(func(b []byte) error {
		for line := range bytes.SplitSeq(b, []byte{'\n'}) {
			if len(line) >= 8 {
				total += binary.LittleEndian.Uint64(line)
			}
			buf.Write(line)
		}
		n, err = w.Write(b)
		return err
	})
	if err != nil {
		return n, total, err
	}
	_, err = buf.WriteTo(w)
	return n, total, err
}
