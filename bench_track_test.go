//go:build linux

package mmap

import (
	"testing"
	"time"
)

// What tracking costs:
//
//	go test -run '^$' -bench Track -benchtime 50x .
func BenchmarkTrack(b *testing.B) {
	trackable(b)
	pg := int(pageSize)
	memory := func(b *testing.B, size int) (ReadWrite, *Tracker) {
		m, err := Map[ReadWrite](Anonymous(size).Populate())
		ok(err)
		b.Cleanup(func() { m.Close() })
		ok(m.Advise(0, size, AdviceNoHugePage))
		tracker, err := m.Track()
		ok(err)
		return m, tracker
	}
	took := func(f func()) time.Duration {
		start := time.Now()
		f()
		return time.Since(start)
	}
	// 1 GiB of which nothing was written.
	b.Run("op=take", func(b *testing.B) {
		m, tracker := memory(b, 1<<30)
		var ms []float64
		for b.Loop() {
			ms = append(ms, took(func() {
				if spans := must(tracker.Take(0, m.Len())); len(spans) > 0 {
					b.Fatal(spans)
				}
			}).Seconds()*1e3)
		}
		b.ReportMetric(median(ms), "ms/take")
	})
	// The first write of a page after a reset, beside the first touch of anonymous memory.
	b.Run("op=write", func(b *testing.B) {
		const pages = 1024
		m, tracker := memory(b, pages*pg)
		touch := func(m ReadWrite) func() {
			return func() {
				ok(m.Update(func(p []byte) error {
					for i := 0; i < len(p); i += pg {
						p[i] = 1
					}
					return nil
				}))
			}
		}
		inTurn(b, "page", pages, func() time.Duration {
			ok(tracker.Reset(0, m.Len()))
			return took(touch(m))
		}, func() time.Duration {
			fresh := must(Map[ReadWrite](Anonymous(pages * pg)))
			defer fresh.Close()
			ok(fresh.Advise(0, fresh.Len(), AdviceNoHugePage))
			return took(touch(fresh))
		})
	})
	// 20 pages of 64 MiB go back to a snapshot, beside a copy of all.
	b.Run("op=rollback", func(b *testing.B) {
		m, tracker := memory(b, 64*mib)
		was := make([]byte, m.Len())
		ok(second(m.ReadAt(was, 0)))
		ok(second(m.WriteAt(was, 0)))
		ok(tracker.Reset(0, m.Len()))
		inTurn(b, "rollback", 1, func() time.Duration {
			for i := range 20 {
				ok(second(m.WriteAt([]byte{1}, int64(i*777*pg))))
			}
			return took(func() {
				for _, s := range must(tracker.Take(0, m.Len())) {
					ok(second(m.WriteAt(was[s.Off:s.Off+s.Len], int64(s.Off))))
					ok(tracker.Reset(s.Off, s.Len))
				}
			})
		}, func() time.Duration {
			d := took(func() { ok(second(m.WriteAt(was, 0))) })
			ok(tracker.Reset(0, m.Len()))
			return d
		})
	})
}
