//go:build linux

package mmap_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/testkit"
	"github.com/mmarinus/mmap/paging"
)

// Huge pages of the pool, which only tests at the top use, are paged whole.
func TestPagedHuge(t *testing.T) {
	testkit.Needs(t, "UFFD_FEATURE_SIGBUS")
	huge := mmap.WithHugePages(t, 8)
	f, err := mmap.MemfdHuge("paged", int64(4*huge), 0, 0)
	testkit.Check(t, err)
	defer f.Close()
	data := make([]byte, 4*huge)
	for i := range data {
		data[i] = byte(i%253) + 1
	}
	for name, s := range map[string]mmap.Spec{"private": mmap.Anonymous(4 * huge).HugePages(0), "shared": mmap.Anonymous(4 * huge).HugePages(0).Shared(), "memfd": mmap.File(f, 0, 4*huge).Shared()} {
		t.Run(name, func(t *testing.T) {
			m, err := mmap.Map[mmap.ReadWrite](s)
			testkit.Check(t, err)
			defer m.Close()
			p, err := paging.New(m, bytes.NewReader(data)) // the window becomes a huge page
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skip(err)
			}
			testkit.Check(t, err)
			b := make([]byte, 100)
			_, err = p.ReadAt(b, int64(huge-50))
			if testkit.Check(t, err); !bytes.Equal(b, data[huge-50:huge+50]) {
				t.Error("contents differ")
			}
			_, err = m.ReadAt(b, int64(2*huge))
			testkit.Wants(t, "the third page", err, mmap.ErrFault, paging.ErrAbsent)
			testkit.Check(t, testkit.Second(m.WriteAt(make([]byte, huge), 0)))
			if err := p.Evict(0, huge); err != nil {
				t.Skip("before Linux 5.18 huge pages cannot be discarded: ", err)
			}
			_, err = m.ReadAt(b, 0)
			testkit.Wants(t, "an evicted page", err, mmap.ErrFault, paging.ErrAbsent)
			testkit.Check(t, p.View(func(b []byte) error {
				if !bytes.Equal(b, data) {
					t.Error("the mapping differs")
				}
				return nil
			}))
		})
	}
}
