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
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(stderr, "usage: tour FILE")
		return 2
	}
	if err := tour(args[0], stdout, progress(stderr)); err != nil {
		fmt.Fprintln(stderr, "tour:", err)
		return 1
	}
	return 0
}

// progress returns a function that says on a terminal how much is done, if it takes longer
// than a second.
func progress(out io.Writer) func(done, all int) {
	f, ok := out.(*os.File)
	if !ok {
		return func(int, int) {}
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return func(int, int) {} // no terminal
	}
	start, said := time.Now(), false
	return func(done, all int) {
		switch {
		case done == all && said:
			fmt.Fprint(f, "\r\x1b[K") // the line is empty again
		case done < all && time.Since(start) > time.Second:
			said = true
			fmt.Fprintf(f, "\r%d %% of %d MiB", 100*int64(done)/int64(all), all>>20)
		}
	}
}

func tour(name string, out io.Writer, progress func(done, all int)) error {
	file, err := mmap.Map[mmap.Read](mmap.Path(name))
	if err != nil {
		return err
	}
	defer file.Close()
	size := file.Len()
	sum := sha256.New()
	var first string
	var before []byte
	err = file.View(func(b []byte) error { // b is the file: nothing is copied
		first, before = firstLine(b), bytes.Clone(b[:min(size, os.Getpagesize())])
		for piece := range slices.Chunk(b, 16<<20) {
			sum.Write(piece)
			b = b[len(piece):]
			progress(size-len(b), size)
		}
		return nil
	})
	if err != nil {
		return err // also if somebody truncates the file at this moment
	}
	fmt.Fprintln(out, "1. A mapping that can be read. Its type, mmap.Read, has no method that writes.")
	fmt.Fprintf(out, "   %q has %d bytes.\n", name, size)
	fmt.Fprintf(out, "   It begins: %s\n", first)
	fmt.Fprintf(out, "   SHA-256: %x\n", sum.Sum(nil))
	if size == 0 {
		fmt.Fprintln(out, "   An empty file makes an empty mapping. A file of /proc has 0 bytes for stat(2), whatever")
		fmt.Fprintln(out, "   it holds: read it by os.ReadFile.")
	}
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
	after, err := begin(name, len(before))
	if err != nil {
		return err
	}
	if !bytes.Equal(after, before) {
		return fmt.Errorf("somebody else changed %s meanwhile", name)
	}
	fmt.Fprintf(out, "   The file did not change: it begins with the same %d bytes as before.\n", len(after))

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

// begin returns the first size bytes of a file, read the ordinary way.
func begin(name string, size int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(size)))
}
