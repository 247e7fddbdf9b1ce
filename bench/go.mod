module github.com/mmarinus/mmap/bench

go 1.26.0

require (
	github.com/edsrzf/mmap-go v1.2.0
	github.com/mmarinus/mmap v0.0.0
	github.com/tysonmote/gommap v0.0.3
	golang.org/x/exp v0.0.0-20261014143641-f0251eb4aa3e
	golang.org/x/sys v0.49.0
)

replace github.com/mmarinus/mmap => ..
