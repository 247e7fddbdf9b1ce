//go:build linux

package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/mmarinus/mmap/internal/attach"
)

// trackOperations are those of a tracker, for [TestInjectedFaults]. An operation succeeds
// if no written page is missing; when it has failed, it is run again without a fault.
func trackOperations(add func(name, says string, prepare func(b *bed) func() error)) {
	pg := int(pageSize)
	pageOperations(add)
	if err := Probe("UFFD_FEATURE_WP_ASYNC"); err != nil {
		add("track", "", func(*bed) func() error { return func() error { return err } })
		return
	}
	const pages = 300 // so that a scan takes several calls
	var want []Span
	for i := 1; i < pages; i += 2 {
		want = append(want, Span{i * pg, pg})
	}
	last := want[len(want)-1]
	written := func(m ReadWrite) {
		for _, s := range want {
			if s != last {
				must(m.WriteAt([]byte{1}, int64(s.Off)))
			}
		}
	}
	all := func(spans []Span, err error) error {
		if err != nil {
			return err
		}
		i := 0
		for _, s := range spans { // after a failure more may count as written
			for i < len(want) && s.Off <= want[i].Off && want[i].Off+want[i].Len <= s.Off+s.Len {
				i++
			}
		}
		if i < len(want) {
			return fmt.Errorf("%v lack some of %v", spans, want)
		}
		return nil
	}
	for name, s := range map[string]func(b *bed) Spec{
		"": func(*bed) Spec { return Anonymous(8 * pg) }, " a file": func(b *bed) Spec { return File(b.f, 0, 8*pg).Shared() },
		", reserve": func(*bed) Spec { return Anonymous(6 * pg).Reserve(9 * pg) },
	} {
		add("track"+name, "track: ", func(b *bed) func() error {
			m := on(b, must(Map[ReadWrite](s(b))))
			return func() error {
				tracker, err := m.Track()
				if err == nil {
					b.after = append(b.after, func() { tracker.Close() })
				}
				return err
			}
		})
	}
	// What is written is the kernel's to tell, but for a page that is marked.
	for name, do := range map[string]func(t *Tracker) error{
		"take":    func(t *Tracker) error { return all(t.Take(0, pages*pg)) },
		"written": func(t *Tracker) error { return all(t.Written(0, pages*pg)) },
	} {
		add("track, "+name, name+" of ", func(b *bed) func() error {
			m := on(b, must(Map[ReadWrite](Anonymous(pages*pg))))
			tracker := must(m.Track())
			written(m)
			if err := tracker.Mark(last.Off, last.Len); err != nil {
				b.t.Fatal(err)
			}
			return func() error { return do(tracker) }
		})
	}
	add("track, reset", "reset of ", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](Anonymous(pages*pg))))
		tracker := must(m.Track())
		written(m)
		return func() error {
			err := tracker.Reset(0, pages*pg)
			if err == nil {
				return nil
			}
			whole := stretch{0, pages * pageSize}
			if marked := tracker.on.marked(whole); !slices.Equal(marked, pageSet{whole}) {
				return fmt.Errorf("of a reset that failed there are %v marked", marked)
			}
			return err
		}
	})
	add("track, grow", "grow to ", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](Anonymous(pg).Reserve(8*pg))))
		must(m.Track())
		return func() error { return Grow(m, 8*pg) }
	})
	add("track, close", "close of the tracker", func(b *bed) func() error {
		m := on(b, must(Map[ReadWrite](Anonymous(8*pg))))
		tracker := must(m.Track())
		return tracker.Close
	})
}

// pageOperations are those of package paging. No page reads as zeros afterwards.
func pageOperations(add func(name, says string, prepare func(b *bed) func() error)) {
	pg := int(pageSize)
	if err := Probe("UFFD_FEATURE_SIGBUS"); err != nil {
		add("track, page", "", func(*bed) func() error { return func() error { return err } })
		return
	}
	contents := bytes.Repeat([]byte{5}, 8*pg)
	for name, s := range map[string]Spec{"private": Anonymous(8 * pg), "shared": Anonymous(8 * pg).Shared()} {
		add("track, page "+name, "page: ", func(b *bed) func() error {
			m := must(Map[ReadWrite](s))
			b.was = append(b.was, m)
			return func() error { return second(attach.Pager(m.Untyped(), nothingFetched, nil)) }
		})
		for _, tracked := range []bool{false, true} {
			paged := func(b *bed) (ReadWrite, attach.Pages) {
				m := must(Map[ReadWrite](s))
				b.was = append(b.was, m)
				pages := must(attach.Pager(m.Untyped(), nothingFetched, nil))
				if tracked && Probe("UFFD_FEATURE_WP_ASYNC") == nil {
					must(m.Track())
				}
				return m, pages
			}
			// Half of the pages are there already, and are left alone.
			noZeros := func(m ReadWrite, err error) error {
				for i := range 8 {
					var first [1]byte
					if _, no := m.ReadAt(first[:], int64(i*pg)); no == nil && first[0] == 0 {
						return fmt.Errorf("page %d reads as zeros", i)
					}
				}
				return err
			}
			is := []string{"", ", tracked"}[btoi(tracked)]
			add("track, fetch "+name+is, "fetch of ", func(b *bed) func() error {
				m, pages := paged(b)
				for _, i := range []int{1, 4, 5} {
					check(b.t, pages.Install(i*pg, contents[:pg]))
				}
				return func() error { return noZeros(m, pages.Install(0, contents)) }
			})
			add("track, evict "+name+is, "eviction of ", func(b *bed) func() error {
				m, pages := paged(b)
				check(b.t, pages.Install(0, contents))
				return func() error { return noZeros(m, pages.Evict(pg, 3*pg)) }
			})
		}
	}
}

var errNotFetched = errors.New("not fetched")

func nothingFetched(int) error { return errNotFetched }
