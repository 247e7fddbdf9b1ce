//go:build linux && !race

package sys

// Race says that the program was built with the race detector.
const Race = false
