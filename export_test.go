//go:build linux

package mmap

import (
	"testing"

	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/testkit"
)

// Bare gives tests the memory at an address, with neither guard nor pin.
var Bare = memory

// What the tests use of package kernel, by the names that they have for it.
var (
	pageSize  = kernel.PageSize
	page      = kernel.Page
	round     = kernel.Round
	survey    = kernel.Survey
	regionsOf = kernel.RegionsOf
	number    = kernel.Number
)

type area = kernel.Area

// What the tests share with those in systemtest, by the names that they have for it.
var (
	check           = testkit.Check
	wants           = testkit.Wants
	explained       = testkit.Explained
	lacking         = testkit.Lacking
	unavailable     = testkit.Unavailable
	scratch         = testkit.Scratch
	content         = testkit.Content
	hasSecret       = testkit.HasSecret
	table           = testkit.Table
	state           = testkit.State
	kept            = testkit.Kept
	isMapped        = testkit.IsMapped
	unmapped        = testkit.Unmapped
	spot            = testkit.Spot
	hole            = testkit.Hole
	nowhere         = testkit.Nowhere
	smapsOf         = testkit.SmapsOf
	kilobytes       = testkit.Kilobytes
	flagged         = testkit.Flagged
	picture         = testkit.Picture
	pictureOf       = testkit.PictureOf
	samePicture     = testkit.SamePicture
	inChild         = testkit.InChild
	inMounts        = testkit.InMounts
	byItself        = testkit.ByItself
	inOwnMounts     = testkit.InOwnMounts
	alone           = testkit.Alone
	canLock         = testkit.CanLock
	counted         = testkit.Counted
	humble          = testkit.Humble
	denyExecGain    = testkit.DenyExecGain
	collectCoverage = testkit.CollectCoverage
	filtered        = testkit.Filtered
	noQuery         = testkit.NoQuery
)

const (
	quick = testkit.Quick
	mib   = 1 << 20
)

type rule = testkit.Rule

func must[T any](v T, err error) T { return testkit.Must(v, err) }

func second[T any](v T, err error) error { return testkit.Second(v, err) }

// Leaks is leaks.Watch, which the tests within the package cannot import.
var Leaks func() func() bool

// WithHugePages and TransparentHuge are for the model of a tracker.
func WithHugePages(t testing.TB, n int) int { return int(withHugePages(t, n)) }

func TransparentHuge() int { return int(transparentHuge()) }
