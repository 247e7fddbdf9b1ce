//go:build linux

package mmap

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A set of pages beside one in a map.
func TestPageBits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const pages = 200
		var set pageBits
		has := map[uintptr]bool{}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			page := rapid.Custom(func(t *rapid.T) uintptr {
				// Where one word ends there is most to get wrong.
				return rapid.OneOf(rapid.UintptrRange(0, pages), rapid.SampledFrom([]uintptr{0, 63, 64, 65, 127, 128, 192})).Draw(t, "page")
			})
			from, to := page.Draw(t, "from"), page.Draw(t, "to")
			from, to = min(from, to), max(from, to)
			s := stretch{from * pageSize, to * pageSize}
			kind := rapid.SampledFrom([]string{"add", "remove", "clip"}).Draw(t, "kind")
			var want pageSet
			for p := from; p < to; p++ {
				switch {
				case kind == "add":
					has[p] = true
				case kind == "remove":
					delete(has, p)
				case has[p]:
					want = want.append(stretch{p * pageSize, (p + 1) * pageSize})
				}
			}
			switch kind {
			case "add":
				set.add(s)
			case "remove":
				set.remove(s)
			case "clip":
				if got := set.clip(s); !slices.Equal(got, want) {
					t.Fatalf("of %v there are %v, want %v", s, got, want)
				}
			}
		}
	})
}
