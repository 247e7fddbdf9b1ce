//go:build linux

package paging_test

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/paging"
)

// TestStress: readers beside eviction, Discard and a tracker.
func TestStress(t *testing.T) {
	size := 256 * pg
	for name, s := range kinds(t, size) {
		t.Run(name, func(t *testing.T) {
			src := newSource(size)
			m, p := paged[mmap.ReadWrite](t, s, src, paging.Window(4*pg))
			var stop atomic.Bool
			var all sync.WaitGroup
			var right atomic.Int64
			for seed := range 8 {
				all.Go(func() {
					b := make([]byte, 3*pg)
					for i := seed; !stop.Load(); i++ {
						off := i * 7919 % (size - len(b))
						err := error(nil)
						if i%2 == 0 {
							_, err = p.ReadAt(b, int64(off))
						} else {
							err = p.View(func(v []byte) error { copy(b, v[off:]); return nil })
						}
						if err != nil || !bytes.Equal(b, src.data[off:off+len(b)]) {
							t.Errorf("what is read at %d differs, or %v", off, err)
							return
						}
						right.Add(1)
					}
				})
			}
			all.Go(func() {
				for i := 0; !stop.Load(); i++ {
					p.Evict(i*4*pg%size, 4*pg) // what is in use stays
					if i%7 == 0 {
						if err := m.Discard(i*pg%size, pg); err != nil {
							t.Error(err)
						}
					}
				}
			})
			if mmap.Probe("UFFD_FEATURE_WP_ASYNC") == nil {
				all.Go(func() {
					for !stop.Load() {
						tracker, err := m.Track()
						if err != nil {
							t.Error(err)
							return
						}
						for range 100 {
							_, failed := tracker.Take(0, size)
							err = errors.Join(err, failed)
						}
						if err = errors.Join(err, tracker.Close()); err != nil {
							t.Error(err)
						}
					}
				})
			}
			time.Sleep(time.Second)
			stop.Store(true)
			all.Wait()
			if t.Logf("%d right, %d reads", right.Load(), src.reads.Load()); right.Load() == 0 {
				t.Error("nothing was read")
			}
		})
	}
}
