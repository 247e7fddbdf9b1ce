//go:build linux

// Command loader loads a static or static-pie ELF64 program of this processor into memory,
// as an enclave or a virtual machine gets it, and shows what is where. It runs nothing.
//
//	CGO_ENABLED=0 go build -o /tmp/tour ./examples/tour && go run ./examples/loader /tmp/tour
package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/mmarinus/mmap"
)

// An Image is a program in memory, in parts. What may be done with a part is in its type.
type Image struct {
	Base, Entry uint64 // add Base to an address of the file: a static-pie is relocated to it
	Code        []mmap.ReadExec
	Constants   []mmap.Read
	Data        []mmap.ReadWrite
	Parts       []mmap.Mapping // these and the gaps, in the order of their addresses
}

// Load maps the file privately: it must not change while the image is in use.
func Load(f *os.File) (*Image, error) {
	l, err := newLayout(f)
	if err != nil {
		return nil, err
	}
	u, err := mmap.MapUnknown(mmap.Anonymous(int(l.high-l.low)).Align(int(l.align)), mmap.ProtNone)
	if err != nil {
		return nil, err
	}
	l.u, l.base = u, uint64(u.Addr())-l.low // which may wrap, as sums with it do
	image := &Image{Base: l.base, Entry: l.base + l.Entry}
	steps := []struct {
		kind elf.ProgType
		do   func(*elf.Prog) error
	}{{elf.PT_LOAD, l.place}, {elf.PT_DYNAMIC, l.relocate}, {elf.PT_GNU_RELRO, l.readOnly}}
	for _, step := range steps {
		if err := l.each(step.kind, step.do); err != nil {
			return nil, errors.Join(err, u.Close())
		}
	}
	if err := image.divide(u); err != nil {
		return nil, errors.Join(err, image.Close())
	}
	return image, nil
}

// divide splits the mapping where the kernel says that permissions change. Assert asks it
// again, and then a part has its type.
func (i *Image) divide(u mmap.Unknown) error {
	regions, err := u.Regions()
	for n, r := range regions {
		if n+1 < len(regions) && regions[n+1].Perms == r.Perms || err != nil {
			continue
		}
		var part mmap.Unknown
		if part, u, err = mmap.Split(u, int(r.End-uint64(u.Addr()))); err == nil {
			err = i.add(part)
		}
	}
	return errors.Join(err, u.Close()) // empty, if all went well
}

func (i *Image) add(part mmap.Unknown) error {
	switch part.Prot() {
	case mmap.ProtNone:
		return keep(i, new([]mmap.None), part)
	case mmap.ProtRead:
		return keep(i, &i.Constants, part)
	case mmap.ProtRead | mmap.ProtWrite:
		return keep(i, &i.Data, part)
	}
	return keep(i, &i.Code, part)
}

func keep[M mmap.Known](i *Image, list *[]M, part mmap.Unknown) error {
	m, err := mmap.Assert[M](part)
	if err != nil {
		return errors.Join(err, part.Close())
	}
	*list, i.Parts = append(*list, m), append(i.Parts, m.Untyped())
	return nil
}

// Close unmaps all parts.
func (i *Image) Close() (err error) {
	for _, part := range i.Parts {
		err = errors.Join(err, part.Close())
	}
	return err
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: loader FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "loader: %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func run(name string, out io.Writer) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	image, err := Load(f)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "entry %#x, in the file %#x\n", image.Entry, image.Entry-image.Base)
	for _, part := range image.Parts {
		regions, failed := part.Regions()
		err = errors.Join(err, failed)
		for _, r := range regions {
			fmt.Fprintf(out, "%#10x  %v\n", r.Start-image.Base, r)
		}
	}
	return errors.Join(err, image.Close())
}
