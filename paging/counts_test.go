//go:build linux

package paging_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/testkit"
	"github.com/mmarinus/mmap/paging"
)

// TestCounts: what a source may return, and what it may not, as io.ReaderAt says.
func TestCounts(t *testing.T) {
	size := 4*pg - 100
	data := newSource(4 * pg)
	for _, reserve := range []int{0, 4 * pg, 8 * pg} {
		s := mmap.Anonymous(size)
		if reserve > 0 {
			s = s.Reserve(reserve)
		}
		rest := 4*pg - size // of the last page, that the source is asked for
		if reserve == 0 {
			rest = 0
		}
		for _, c := range []struct {
			what string
			n    int // of the last two pages
			err  error
			want error
		}{
			{"all", 2*pg - 100 + rest, nil, nil},
			{"all, and its end", 2*pg - 100 + rest, io.EOF, nil},
			{"all, and an error", 2*pg - 100 + rest, errStorage, errStorage},
			{"what is within Len, and its end", 2*pg - 100, io.EOF, nil},
			{"less", 2*pg - 101, io.EOF, io.ErrUnexpectedEOF},
			{"less, and no error", 2*pg - 101, nil, io.ErrUnexpectedEOF},
			{"less, and an error", 2*pg - 101, errStorage, errStorage},
			{"nothing", 0, nil, io.ErrUnexpectedEOF},
			{"nothing, and its end", 0, io.EOF, io.ErrUnexpectedEOF},
			{"more than was asked for", 2*pg + 1, nil, paging.ErrAbsent},
			{"less than nothing", -1, nil, paging.ErrAbsent},
			{"less than nothing, and its end", -1, io.EOF, paging.ErrAbsent},
		} {
			t.Run(fmt.Sprintf("reserve=%d/%s", reserve/pg, c.what), func(t *testing.T) {
				src := &nested{}
				m, p := paged[mmap.ReadWrite](t, s, src, paging.Window(2*pg))
				src.read = func(b []byte, at int64) (int, error) {
					n, err := data.ReadAt(b, at)
					if at == 0 {
						return n, err
					} else if len(b) != 2*pg-100+rest {
						t.Errorf("it is asked for %d bytes at %d", len(b), at)
					}
					return c.n, c.err
				}
				b := make([]byte, size)
				n, err := p.ReadAt(b, 0)
				if c.want == nil {
					check(t, err)
					if !bytes.Equal(b, data.data[:size]) {
						t.Error("contents differ")
					}
					if reserve > 0 {
						check(t, mmap.Grow(m, 4*pg))
						want := data.data[size:]
						if c.n < 2*pg {
							want = make([]byte, rest)
						}
						b = b[:rest]
						if check(t, testkit.Second(m.ReadAt(b, int64(size)))); !bytes.Equal(b, want) {
							t.Error("what Grow has added differs")
						}
					}
					return
				}
				if n != 2*pg || err == nil || c.want != paging.ErrAbsent && !errors.Is(err, c.want) {
					t.Errorf("%d, %v", n, err)
				}
				_, err = m.ReadAt(b, int64(2*pg))
				wants(t, "the mapping", err, paging.ErrAbsent)
			})
		}
	}
}
