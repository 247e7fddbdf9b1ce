//go:build linux

// Command tour shows what package mmap does, on a file of your choice:
//
//	go run ./examples/tour FILE
//
// It reads the file and never writes it.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode"
	"unicode/utf8"

	"github.com/mmarinus/mmap"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(stderr, "usage: tour FILE")
		return 2
	}
	if err := tour(args[0], stdout); err != nil {
		fmt.Fprintln(stderr, "tour:", err)
		return 1
	}
	return 0
}

func tour(name string, out io.Writer) error {
	file, err := mmap.Map[mmap.Read](mmap.Path(name))
	if err != nil {
		return err
	}
	defer file.Close()
	size := file.Len()
	var before [sha256.Size]byte
	var first string
	err = file.View(func(b []byte) error { // b is the file: nothing is copied
		before, first = sha256.Sum256(b), firstLine(b)
		return nil
	})
	if err != nil {
		return err // also if somebody truncates the file at this moment
	}
	fmt.Fprintln(out, "1. A mapping that can be read. Its type, mmap.Read, has no method that writes.")
	fmt.Fprintf(out, "   %q has %d bytes.\n", name, size)
	fmt.Fprintf(out, "   It begins: %s\n", first)
	fmt.Fprintf(out, "   SHA-256: %x\n", before)
	kernel(out, file.Untyped())

	fmt.Fprintln(out, "2. Split: its first page becomes a mapping of its own. No system call is made.")
	// The whole could be made writable just as well. But the kernel would have
	// to promise memory for a copy of every page, and for a file larger than
	// memory it refuses.
	head, rest, err := mmap.Split(file, min(size, os.Getpagesize()))
	if err != nil {
		return err
	}
	defer head.Close()
	defer rest.Close()
	fmt.Fprintf(out, "   %d bytes and %d bytes.\n", head.Len(), rest.Len())
	kernel(out, head.Untyped())
	kernel(out, rest.Untyped())
	if _, err = file.ReadAt(make([]byte, 1), 0); !errors.Is(err, mmap.ErrMoved) {
		return fmt.Errorf("the old handle answered %v", err)
	}
	fmt.Fprintf(out, "   The old handle is used up: %v\n", err)

	fmt.Fprintln(out, "3. Protect: the first page becomes writable. The mapping is private, so writes stay here.")
	page, err := mmap.Protect[mmap.ReadWrite](head)
	if err != nil {
		return err
	}
	defer page.Close()
	text := []byte("THIS IS A COPY. ")
	err = page.Update(func(b []byte) error {
		n := copy(b, text)
		fmt.Fprintf(out, "   In memory it begins: %q\n", b[:n])
		return nil
	})
	if err != nil {
		return err
	}
	kernel(out, page.Untyped())
	after, err := hash(name, size)
	if err != nil {
		return err
	}
	if after != before {
		return fmt.Errorf("somebody else changed %s meanwhile", name)
	}
	fmt.Fprintf(out, "   The file did not change: %x\n", after)

	fmt.Fprintln(out, "4. A view pins the mapping. Nothing can be changed under a reader.")
	err = page.View(func([]byte) error {
		_, err := mmap.Protect[mmap.Read](page)
		return err
	})
	if !errors.Is(err, mmap.ErrBusy) {
		return fmt.Errorf("a transition inside a view answered %v", err)
	}
	fmt.Fprintf(out, "   Inside a view: %v\n", err)
	kernel(out, page.Untyped())

	return truncation(out, page)
}

// truncation copies the page into a file, and takes half of that away while it
// is mapped.
func truncation(out io.Writer, page mmap.ReadWrite) error {
	fmt.Fprintln(out, "5. A scratch file of two pages is mapped, and then loses the second one.")
	scratch, err := os.CreateTemp("", "tour-")
	if err != nil {
		return err
	}
	defer os.Remove(scratch.Name())
	defer scratch.Close()
	half := os.Getpagesize()
	if _, err = io.Copy(scratch, io.NewSectionReader(page, 0, int64(page.Len()))); err != nil {
		return err
	}
	if err = scratch.Truncate(2 * int64(half)); err != nil {
		return err
	}
	m, err := mmap.Map[mmap.Read](mmap.File(scratch, 0, 2*half))
	if err != nil {
		return err
	}
	defer m.Close()
	kernel(out, m.Untyped())
	if err = scratch.Truncate(int64(half)); err != nil {
		return err
	}
	n, err := m.ReadAt(make([]byte, m.Len()), 0)
	var fault *mmap.FaultError
	if !errors.As(err, &fault) {
		return fmt.Errorf("reading past the end of the file answered %v", err)
	}
	fmt.Fprintf(out, "   Read %d of %d bytes: %v\n", n, m.Len(), fault)
	kernel(out, m.Untyped())
	fmt.Fprintln(out, "   An ordinary program would have died of SIGBUS. This one goes on, and ends here.")
	return nil
}

// kernel prints what the kernel says is mapped there.
func kernel(out io.Writer, m mmap.Mapping) {
	regions, err := m.Regions()
	switch {
	case err != nil:
		fmt.Fprintf(out, "   kernel: %v\n", err)
	case len(regions) == 0:
		fmt.Fprintln(out, "   kernel: nothing is mapped: the mapping is empty")
	}
	for _, r := range regions {
		fmt.Fprintf(out, "   kernel: %v\n", r)
	}
}

// firstLine returns the first line of text, or says what b is instead.
func firstLine(b []byte) string {
	if len(b) == 0 {
		return "nothing, it is empty"
	}
	line, _, _ := bytes.Cut(b[:min(len(b), 60*utf8.UTFMax)], []byte("\n"))
	var text []rune
	for i, r := range string(bytes.TrimSuffix(line, []byte("\r"))) {
		if len(text) == 60 {
			return fmt.Sprintf("%q and so on", string(text))
		}
		if r == utf8.RuneError && !bytes.HasPrefix(line[i:], []byte("\uFFFD")) || !unicode.IsPrint(r) && r != '\t' {
			return fmt.Sprintf("no text, but % x", b[:min(len(b), 16)])
		}
		text = append(text, r)
	}
	return fmt.Sprintf("%q", string(text))
}

// hash hashes the first size bytes of a file, the ordinary way.
func hash(name string, size int) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, io.LimitReader(f, int64(size)))
	return [sha256.Size]byte(h.Sum(nil)), err
}
