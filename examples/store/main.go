// Command store keeps keys and values in one file, which is mapped on Linux:
//
//	store FILE list | get KEY | put KEY VALUE | delete KEY | compact
//
// Many may read while one writes, and a compaction waits for nobody. On other systems the
// same code uses os.File: build tags choose between mapped.go and plain.go.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "store:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) (err error) {
	const usage = "usage: store FILE list | get KEY | put KEY VALUE | delete KEY | compact"
	arguments := map[string]int{"list": 2, "compact": 2, "get": 3, "delete": 3, "put": 4}
	if len(args) < 2 || len(args) != arguments[args[1]] {
		return errors.New(usage)
	}
	s, err := Open(args[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	switch args[1] {
	case "put":
		return s.Put(args[2], []byte(args[3]))
	case "delete":
		return s.Put(args[2], nil)
	case "compact":
		return s.Compact()
	}
	tx, err := s.Begin()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tx.end()) }()
	if args[1] == "list" {
		return tx.All(func(key, value []byte) error {
			_, err := fmt.Fprintf(out, "%s\t%s\n", key, value)
			return err
		})
	}
	value, err := tx.Get(args[2])
	if err == nil {
		_, err = fmt.Fprintf(out, "%s\n", value)
	}
	return err
}
