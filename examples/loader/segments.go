//go:build linux

package main

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mmarinus/mmap"
)

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
