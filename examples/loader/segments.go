//go:build linux

package main

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/mmarinus/mmap"
)

const largest = 1 << 30 // bytes of an image, and its alignment: no file makes us map more

// Nothing is writable and executable at once.
var permissions = map[elf.ProgFlag]mmap.Prot{
	elf.PF_R:            mmap.ProtRead,
	elf.PF_R | elf.PF_W: mmap.ProtRead | mmap.ProtWrite,
	elf.PF_R | elf.PF_X: mmap.ProtRead | mmap.ProtExec,
}

// relative is the relocation that adds the base.
var relative = map[elf.Machine]uint64{
	elf.EM_X86_64: uint64(elf.R_X86_64_RELATIVE), elf.EM_AARCH64: uint64(elf.R_AARCH64_RELATIVE),
	elf.EM_RISCV: uint64(elf.R_RISCV_RELATIVE), elf.EM_PPC64: uint64(elf.R_PPC64_RELATIVE),
	elf.EM_S390: uint64(elf.R_390_RELATIVE), elf.EM_LOONGARCH: uint64(elf.R_LARCH_RELATIVE),
}

var page = uint64(os.Getpagesize())

func down(addr uint64) uint64 { return addr &^ (page - 1) }
func up(addr uint64) uint64   { return down(addr + page - 1) }

// A layout is a checked file, and the mapping that it is loaded into.
type layout struct {
	*elf.File
	f                      *os.File
	u                      mmap.Unknown
	low, high, align, base uint64 // low and high are addresses of the file
}

// newLayout checks all that the file says.
func newLayout(f *os.File) (*layout, error) {
	self, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer self.Close()
	file, err := elf.NewFile(f)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	l := &layout{File: file, f: f, align: page}
	if l.Class != elf.ELFCLASS64 || l.Machine != self.Machine || l.Data != self.Data || l.Type != elf.ET_EXEC && l.Type != elf.ET_DYN {
		return nil, fmt.Errorf("no 64-bit program of this processor, but %v %v %v %v", l.Class, l.Data, l.Machine, l.Type)
	}
	size := uint64(st.Size())
	err = l.each(elf.PT_LOAD, func(p *elf.Prog) error {
		_, known := permissions[p.Flags]
		switch {
		case p.Vaddr > 1<<62 || p.Memsz > largest || p.Filesz > p.Memsz:
			return fmt.Errorf("absurd: %d bytes of the file in %d bytes", p.Filesz, p.Memsz)
		case p.Off > size || p.Filesz > size-p.Off:
			return errors.New("the file ends before it")
		case p.Vaddr%page != p.Off%page:
			return fmt.Errorf("offset %#x of the file cannot be mapped there", p.Off)
		case !known || p.Memsz > p.Filesz && p.Flags&elf.PF_W == 0:
			return fmt.Errorf("permissions %v", p.Flags)
		case p.Align > largest || p.Align&(p.Align-1) != 0:
			return fmt.Errorf("alignment %#x", p.Align)
		case l.high > 0 && (down(p.Vaddr) < l.high || p.Vaddr-l.low > largest):
			return fmt.Errorf("too far from the one before it, overlapping, or out of order")
		case l.high == 0:
			l.low = down(p.Vaddr)
		}
		l.high, l.align = up(p.Vaddr+p.Memsz), max(l.align, p.Align)
		return nil
	})
	if err == nil && l.high == 0 {
		err = errors.New("it has no segments")
	}
	l.low &^= l.align - 1
	return l, err
}

// each calls do with the segments of a kind.
func (l *layout) each(kind elf.ProgType, do func(p *elf.Prog) error) error {
	for _, p := range l.Progs {
		if p.Type == kind {
			if err := do(p); err != nil {
				return fmt.Errorf("%v at %#x: %w", kind, p.Vaddr, err)
			}
		}
	}
	return nil
}

// at returns where n bytes are in the mapping, or -1, which is a bad argument of its methods.
func (l *layout) at(addr, n uint64) int {
	if addr < l.low || addr > l.high || n > l.high-addr {
		return -1
	}
	return int(addr - l.low)
}

// place maps the file's pages of a segment, zeros behind its last byte of the file, and
// pages of zeros. A segment is as far behind a page boundary in the file as in memory.
func (l *layout) place(p *elf.Prog) error {
	prot := permissions[p.Flags]
	start, zeros, end := down(p.Vaddr)-l.low, p.Vaddr-l.low+p.Filesz, up(p.Vaddr+p.Memsz)-l.low
	pages := start // where the pages of the file end
	if p.Filesz > 0 {
		pages = up(zeros)
		err := l.u.Place(int(start), mmap.File(l.f, int64(down(p.Off)), int(pages-start)), prot)
		if err == nil && p.Memsz > p.Filesz { // a file that is shorter by now is an error here, and no crash
			err = l.u.UpdateRange(int(zeros), int(pages-zeros), func(b []byte) error { clear(b); return nil })
		}
		if err != nil {
			return err
		}
	}
	return l.u.Place(int(pages), mmap.Anonymous(int(end-pages)), prot)
}

// relocate adds the base to the pointers that the file lists. Code and constants refuse
// it with ErrPermission. What needs a function of the program is left to its start.
func (l *layout) relocate(p *elf.Prog) error {
	const relr = 36 // DT_RELR, relocations in a shorter form
	var dynamic [relr + 1]uint64
	err := l.u.ViewRange(l.at(p.Vaddr, p.Filesz), int(p.Filesz), func(b []byte) error {
		entries, err := mmap.Slice[elf.Dyn64](b)
		for i := 0; i < len(entries) && entries[i].Tag != int64(elf.DT_NULL); i++ {
			if e := entries[i]; e.Tag > 0 && e.Tag <= relr {
				dynamic[e.Tag] = e.Val
			}
		}
		return err
	})
	if err == nil && dynamic[elf.DT_NEEDED]|dynamic[elf.DT_REL]|dynamic[relr] != 0 {
		err = errors.New("it needs a dynamic linker")
	}
	table, size := dynamic[elf.DT_RELA], dynamic[elf.DT_RELASZ]
	if err != nil || size == 0 {
		return err
	}
	return l.u.ViewRange(l.at(table, size), int(size), func(b []byte) error {
		entries, err := mmap.Slice[elf.Rela64](b)
		for _, e := range entries {
			if e.Info == relative[l.Machine] {
				value := binary.NativeEndian.AppendUint64(nil, l.base+uint64(e.Addend))
				_, err = l.u.WriteAt(value, int64(e.Off-l.low))
			} else if e.Info>>32 != 0 {
				err = errors.New("it needs a symbol")
			}
			if err != nil {
				return fmt.Errorf("relocation at %#x, type %d: %w", e.Off, uint32(e.Info), err)
			}
		}
		return err
	})
}

// readOnly takes away the right to write what only the relocations had to change: whole
// pages, and the last one not if data begins in it.
func (l *layout) readOnly(p *elf.Prog) error {
	start := down(p.Vaddr)
	n := down(p.Vaddr+p.Memsz) - start
	return l.u.ProtectRange(l.at(start, n), int(n), mmap.ProtRead)
}
