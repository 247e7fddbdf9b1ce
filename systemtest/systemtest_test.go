//go:build linux

// Package systemtest looks at the library from outside, as a whole: what it does at the
// limits of the process and of the kernel, on older kernels, with devices, and beside
// other goroutines. Some tests hold the words against the code: what must not compile,
// what the documentation and the README promise. A test that needs what package mmap
// does not export is at the top, in the file of what it tests.
package systemtest

import (
	"os"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/kinds"
	"github.com/mmarinus/mmap/internal/leaks"
	"github.com/mmarinus/mmap/internal/testkit"
)

// What the tests at the top share with these, by the names that they have for it.
var (
	pageSize  = kernel.PageSize
	page      = kernel.Page
	regionsOf = kernel.RegionsOf

	check        = testkit.Check
	wants        = testkit.Wants
	explained    = testkit.Explained
	lacking      = testkit.Lacking
	canLock      = testkit.CanLock
	scratch      = testkit.Scratch
	content      = testkit.Content
	hasSecret    = testkit.HasSecret
	table        = testkit.Table
	state        = testkit.State
	kept         = testkit.Kept
	isMapped     = testkit.IsMapped
	unmapped     = testkit.Unmapped
	spot         = testkit.Spot
	hole         = testkit.Hole
	nowhere      = testkit.Nowhere
	kilobytes    = testkit.Kilobytes
	flagged      = testkit.Flagged
	picture      = testkit.Picture
	pictureOf    = testkit.PictureOf
	samePicture  = testkit.SamePicture
	inChild      = testkit.InChild
	byItself     = testkit.ByItself
	inOwnMounts  = testkit.InOwnMounts
	alone        = testkit.Alone
	humble       = testkit.Humble
	limit        = testkit.Limit
	counted      = testkit.Counted
	denyExecGain = testkit.DenyExecGain
	filtered     = testkit.Filtered
	noQuery      = testkit.NoQuery
	mmapNumber   = testkit.MmapNumber

	onePage     = testkit.PageSize
	newArena    = testkit.NewArena
	walk        = testkit.Walk
	areas       = testkit.AreasIn
	modelKinds  = kinds.All
	unknownKind = kinds.Unknown
	known       = kinds.Known
	unknown     = kinds.IsUnknown
	anyKind     = kinds.Any
	readable    = kinds.Readable
	writable    = kinds.Writable
	updatable   = kinds.Updatable
)

const (
	arenaPages = testkit.ArenaPages
	protAll    = mmap.ProtRead | mmap.ProtWrite | mmap.ProtExec
)

type (
	mapping   = kinds.AnyHandle
	rule      = testkit.Rule
	arena     = testkit.Arena
	modelKind = kinds.Kind
	viewer    = kinds.Viewer
	updater   = kinds.Updater
	destroyer = kinds.Destroyer
)

func must[T any](v T, err error) T { return testkit.Must(v, err) }

func second[T any](v T, err error) error { return testkit.Second(v, err) }

// mapped maps s, and closes it at the end of the test.
func mapped[M mmap.Known](t testing.TB, s mmap.Spec) M {
	t.Helper()
	m, err := mmap.Map[M](s)
	check(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

func TestMain(m *testing.M) {
	closed := leaks.Watch("TestCollectorBeside")
	m.Run()
	if !closed() {
		os.Exit(1)
	}
}
