package main

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// Pages are the bytes of the file. A snapshot reads them and keeps them, also after Close.
type pages interface {
	io.WriterAt               // makes the file longer, too; a full disk is an error
	begin() (snapshot, error) // os.ErrClosed after Close
	flush(off, n int64) error // returns when the bytes are on storage
	cut(size int64) error     // what is behind size never comes back
	Close() error             // waits for no snapshot
}

type snapshot interface {
	view(off, n int64, use func(b []byte) error) error // b is good until use returns
	end() error
}

// A file is an open file of the store.
type file struct {
	pages
	index  sync.Map     // from a key to the offsets of its records, []int64, in their order
	size   atomic.Int64 // of the records that are whole; readers look no further
	synced int64        // as much is on storage
	header int64        // where the next header goes
	failed error        // of sync: the kernel can have forgotten what it could not write
}

func openFile(name string) (*file, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	p, err := newPages(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d := &file{pages: p}
	st, err := f.Stat()
	if err == nil {
		err = d.load(st.Size())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), p.Close())
	}
	return d, nil
}

// load makes the index. It drops a last record that is torn, which nobody was promised.
func (f *file) load(size int64) (err error) {
	s, err := f.begin()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	blank, length := size <= start, int64(0)
	for at := int64(0); size >= start && at <= second; at += second {
		err = errors.Join(err, s.view(at, int64(headerSize), func(b []byte) error {
			n := int64(little.Uint64(b[len(magic)+4:]))
			if bytes.Equal(b, header(n)) && n > length {
				length, f.header = n, second-at
			}
			blank = blank && len(bytes.Trim(b, "\x00")) == 0
			return nil
		}))
	}
	off := int64(start)
	switch {
	case err != nil:
		return err
	case length == 0 && blank && (size == 0 || size == start): // new, or we died when it was
		f.size.Store(off)
		f.synced = off
		if _, err := f.WriteAt(make([]byte, start), 0); err != nil {
			return err
		}
		return f.sync()
	case length == 0:
		return errors.New("not a store, or its header is damaged")
	}
	for err == nil && off < size {
		var next int64
		next, err = record(s, off, size, func(key, _ []byte) error { f.add(string(key), off); return nil })
		if err == nil {
			off = next
		}
	}
	if off < length || err != nil && !errors.Is(err, errTorn) {
		return fmt.Errorf("damaged: %w", errors.Join(err, fmt.Errorf("%d bytes of %d are whole", off, length)))
	}
	f.size.Store(off)
	f.synced = off
	return f.cut(off)
}

// put appends a record. Readers see it when it is all there.
func (f *file) put(key string, value []byte) error {
	if f.failed != nil {
		return f.failed
	}
	if len(key) > most || len(value) > most-len(key) {
		return fmt.Errorf("a key of %d bytes with %d: %w", len(key), len(value), os.ErrInvalid)
	}
	length := uint32(len(value))
	if value == nil {
		length = gone
	}
	r := little.AppendUint32(make([]byte, 4, head+len(key)+len(value)), uint32(len(key)))
	r = append(append(little.AppendUint32(r, length), key...), value...)
	little.PutUint32(r, crc32.ChecksumIEEE(r[4:]))
	off := f.size.Load()
	if _, err := f.WriteAt(r, off); err != nil {
		return err
	}
	f.add(key, off)
	f.size.Store(off + int64(len(r)))
	return nil
}

// sync brings the records to storage, and then a header that says so.
func (f *file) sync() error {
	size, err := f.size.Load(), f.failed
	if err == nil {
		err = f.flush(f.synced, size-f.synced)
	}
	if err == nil {
		_, err = f.WriteAt(header(size), f.header)
	}
	if err == nil {
		err = f.flush(0, start)
	}
	if err == nil {
		f.synced, f.header = size, second-f.header
	}
	f.failed = err
	return err
}
