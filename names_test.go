//go:build linux

package mmap

import "github.com/mmarinus/mmap/internal/kernel"

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
