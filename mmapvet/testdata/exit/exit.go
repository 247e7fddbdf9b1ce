// Package exit ends the program. It does not import the library.
package exit

import (
	"fmt"
	"os"
)

// With says why, and does not return.
func With(err error) {
	fmt.Fprintln(os.Stderr, err)
	leave(1)
}

func leave(code int) {
	for _, file := range []*os.File{os.Stdout, os.Stderr} {
		file.Sync()
	}
	os.Exit(code)
}

// Serve does not return either.
func Serve(work <-chan func()) {
	for {
		select {
		case f := <-work:
			f()
		}
	}
}

// Check does not return with an error.
func Check(err error) {
	if err != nil {
		With(err)
	}
}
