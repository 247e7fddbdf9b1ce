// Package others stands for code of others: it knows nothing of the library, so nothing is
// known of it.
package others

import "io"

var (
	pieces  [][]byte
	closers []io.Closer
)

// Keep keeps a piece itself.
func Keep(piece []byte) { pieces = append(pieces, piece) }

// Last returns what was kept last.
func Last() []byte { return pieces[len(pieces)-1] }

// Hold keeps something, and closes it never.
func Hold(c io.Closer) { closers = append(closers, c) }
