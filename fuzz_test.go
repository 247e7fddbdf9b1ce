//go:build linux

package mmap_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/kinds"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// FuzzOperations is [TestOperations] with sequences that the fuzzer chooses. A
// sequence is a stream of random bits: its text says nothing to a reader.
func FuzzOperations(f *testing.F) {
	for seed := range uint64(8) {
		// Different sequences, the later ones longer: mutations of a short one
		// are tried faster, those of a long one get further.
		random := rand.New(rand.NewPCG(seed, 0))
		b := make([]byte, 1024<<(seed/2))
		for i := 0; i < len(b); i += 8 {
			// Small numbers, as the engine's own: most draws are from short lists.
			binary.LittleEndian.PutUint64(b[i:], random.Uint64()>>random.IntN(64))
		}
		f.Add(b)
	}
	quick(f)
	f.Fuzz(rapid.MakeFuzz(operations(f)))
}

// quick bounds how long the engine tries to make an interesting input shorter,
// unless the command says: by default a minute each, in which nothing else goes
// on, for the attempts grow with the square of the length.
func quick(f *testing.F) {
	const name = "test.fuzzminimizetime"
	said := false
	flag.Visit(func(g *flag.Flag) { said = said || g.Name == name })
	if !said {
		if err := flag.Set(name, "200ms"); err != nil {
			f.Fatal(err)
		}
	}
}

// What FuzzMap maps.
const (
	noSource = iota
	anonymousMemory
	fileRange
	fileReadOnly
	descriptorRange
	sealedMemfd
	wholePath
	secretMemory
	nilFile
	closedFile
	noDescriptor
	sources
)

// Where FuzzMap maps it.
const (
	anywhere = iota
	near
	at
	atInArena
	ontoInArena
	twice
	placements
)

// The bits of FuzzMap's options.
const (
	optShared = 1 << iota
	optAlign
	optReserve
	optPopulate
	optLock
	optHuge
	optUnknown
	optOnFault
	optNoReserve
	optLow
	optDroppable
	optCached
	optSynchronous
)

// mapArgs are the arguments of FuzzMap.
type mapArgs struct {
	source, placement, prot uint8
	options                 uint16
	size, offset            int64
	addr                    uint64
	align, reserve, huge    int64
}

func (a mapArgs) has(option uint16) bool { return a.options&option != 0 }

// FuzzMap maps with any arguments: either there is a clean error, or the kernel
// confirms the mapping.
func FuzzMap(f *testing.F) {
	page := int64(onePage)
	add := func(a mapArgs) {
		f.Add(a.source, a.placement, a.prot, a.options, a.size, a.offset, a.addr, a.align, a.reserve, a.huge)
	}
	add(mapArgs{source: noSource})                                                                               // the zero Spec
	add(mapArgs{source: anonymousMemory, prot: 3, size: page})                                                   // the plainest
	add(mapArgs{source: anonymousMemory, prot: 3})                                                               // empty
	add(mapArgs{source: anonymousMemory, prot: 1, size: -1})                                                     // negative
	add(mapArgs{source: anonymousMemory, prot: 1, size: math.MaxInt64})                                          // rounding up overflows
	add(mapArgs{source: anonymousMemory, prot: 8, size: page, options: optUnknown})                              // no such permission
	add(mapArgs{source: anonymousMemory, prot: 3, size: 1, reserve: 5 * page, options: optReserve | optShared})  // a shared reserve
	add(mapArgs{source: anonymousMemory, prot: 3, size: 2, reserve: 1, options: optReserve})                     // a capacity below the size
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, align: 1 << 21, options: optAlign})                // map more, trim
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, align: 48, options: optAlign})                     // no power of two
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, align: math.MinInt64, options: optAlign})          // a single bit, and negative
	add(mapArgs{source: anonymousMemory, prot: 3, size: 1, options: optHuge})                                    // rounds up, or the pool is empty
	add(mapArgs{source: anonymousMemory, prot: 7, size: page, options: optPopulate | optLock})                   // prefaulted and locked
	add(mapArgs{source: anonymousMemory, prot: 0, size: page, options: optLock | optReserve, reserve: 3 * page}) // locked without access
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: at})                                    // address 0
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, options: optLow | optAlign, align: 1 << 21})
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, reserve: 9 * page, options: optDroppable | optReserve})
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, options: optNoReserve | optOnFault})
	add(mapArgs{source: fileRange, prot: 1, size: 3 * page, offset: 7, options: optCached})
	add(mapArgs{source: fileRange, prot: 3, size: page, options: optShared | optSynchronous})                       // not on persistent memory
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: at, addr: math.MaxUint64 &^ 0xfffff})      // the end of the address space
	add(mapArgs{source: anonymousMemory, prot: 3, size: 2 * page, placement: atInArena, addr: 31 * uint64(page)})   // onto a page that is taken
	add(mapArgs{source: anonymousMemory, prot: 3, size: 2 * page, placement: ontoInArena, addr: 4 * uint64(page)})  // replaces
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: near, addr: 0x12_3456_7891})               // a hint to be rounded
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: twice, addr: 1 << 30})                     // two placements
	add(mapArgs{source: fileRange, prot: 1, size: 100, offset: page + 7})                                           // an unaligned offset
	add(mapArgs{source: fileRange, prot: 1, size: 9 * page, offset: page})                                          // past the end of the file
	add(mapArgs{source: fileRange, prot: 1, size: 1, offset: math.MaxInt64})                                        // the largest offset
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: -1})                                                // a negative one
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: 7, placement: atInArena, addr: 7})                  // congruent
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: 7, placement: atInArena, addr: 8})                  // not congruent
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: 7, align: 64, options: optAlign})                   // no alignment is possible
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: 64, align: 64, options: optAlign})                  // and here it is
	add(mapArgs{source: fileReadOnly, prot: 3, size: page, options: optShared})                                     // what the file does not allow
	add(mapArgs{source: fileReadOnly, prot: 2, size: page, options: optShared | optReserve, reserve: 2 * page})     // the same, by mprotect
	add(mapArgs{source: descriptorRange, prot: 3, size: page, offset: page, options: optShared})                    // by number
	add(mapArgs{source: wholePath, prot: 3, options: optShared})                                                    // opened for writing
	add(mapArgs{source: secretMemory, prot: 3, size: page})                                                         // locked and shared
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, options: optHuge, huge: 2 << 20})                     // 2 MiB
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, options: optHuge, huge: 3 << 20})                     // no such size
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, options: optHuge, huge: math.MinInt64})               // a single bit, and negative
	add(mapArgs{source: anonymousMemory, prot: 255, size: page, options: optUnknown})                               // more bits than there are permissions
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: at, addr: 1<<47 - uint64(page)})           // the last page of amd64
	add(mapArgs{source: anonymousMemory, prot: 3, size: 2 * page, placement: at, addr: 1<<47 - uint64(page)})       // and one more
	add(mapArgs{source: anonymousMemory, prot: 3, size: page, placement: near, addr: math.MaxUint64})               // a hint that cannot be rounded up
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: 7, placement: at, addr: math.MaxUint64 - 4088})     // congruent, and at the end
	add(mapArgs{source: fileRange, prot: 1, size: page, offset: math.MaxInt64 - page + 1})                          // ends one past the largest offset
	add(mapArgs{source: descriptorRange, prot: 1, size: page, offset: math.MaxInt64 - page})                        // ends at it, within a page
	add(mapArgs{source: fileRange, prot: 1, size: page, reserve: math.MaxInt64, offset: page, options: optReserve}) // the capacity ends past it
	add(mapArgs{source: sealedMemfd, prot: 3, size: page, offset: 9})                                               // private, for the file is sealed
	add(mapArgs{source: sealedMemfd, prot: 2, size: page, options: optShared})                                      // what the seal forbids
	add(mapArgs{source: wholePath, prot: 1, options: optReserve, reserve: 9 * page})                                // a file, and room for more of it
	add(mapArgs{source: nilFile, prot: 1, size: 1})                                                                 // no file
	add(mapArgs{source: closedFile, prot: 1, size: 1})                                                              // no file any more
	add(mapArgs{source: noDescriptor, prot: 1, size: 1})                                                            // EBADF

	dir := f.TempDir()
	name := filepath.Join(dir, "file")
	contents := bytes.Repeat([]byte("0123456789abcdef"), 3*onePage/16)
	if err := os.WriteFile(name, contents, 0o600); err != nil {
		f.Fatal(err)
	}
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		f.Fatal(err)
	}
	readOnly, err := os.Open(name)
	if err != nil {
		f.Fatal(err)
	}
	gone, err := os.Open(name)
	if err != nil {
		f.Fatal(err)
	}
	gone.Close()
	sealed, err := mmap.Memfd("sealed", int64(len(contents)), 0)
	if err == nil {
		_, err = sealed.Write(contents)
	}
	if err == nil {
		err = mmap.AddSeals(sealed, mmap.SealShrink|mmap.SealGrow|mmap.SealWrite)
	}
	if err != nil {
		f.Fatal(err)
	}
	table, err := procmaps.Open(0)
	if err != nil {
		f.Fatal(err)
	}
	// The upper half of the arena begins with a page that is taken.
	own := newArena(f)
	taken, err := mmap.Map[mmap.None](mmap.Anonymous(onePage).At(own.Page(arenaPages / 2)))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		taken.Close()
		table.Close()
		file.Close()
		readOnly.Close()
		sealed.Close()
	})
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &fs); err != nil {
		f.Fatal(err)
	}

	f.Fuzz(func(t *testing.T, source, placement, prot uint8, options uint16, size, offset int64, addr uint64, align, reserve, huge int64) {
		a := mapArgs{source % sources, placement % placements, prot, options, size, offset, addr, align, reserve, huge}
		if int64(int(huge)) != huge || int64(int(size)) != size || int64(int(align)) != align || int64(int(reserve)) != reserve || uint64(uintptr(addr)) != addr {
			t.Skip("wider than an int of this processor")
		}
		if a.source == wholePath {
			a.size, a.offset = int64(len(contents)), 0
		}
		if a.source == anonymousMemory || a.source == secretMemory {
			a.offset = 0
		}
		if !a.has(optReserve) {
			a.reserve = a.size
		}
		// Nothing of this may eat the memory of the machine.
		const small = 1 << 20
		if a.size > small || a.reserve > small {
			a.options &^= optPopulate | optLock | optOnFault
			if a.source == secretMemory {
				t.Skip("secret memory is locked with its whole capacity")
			}
		}
		var spec mmap.Spec
		switch n := int(a.size); a.source {
		case anonymousMemory:
			spec = mmap.Anonymous(n)
		case fileRange:
			spec = mmap.File(file, a.offset, n)
		case fileReadOnly:
			spec = mmap.File(readOnly, a.offset, n)
		case descriptorRange:
			spec = mmap.FD(int(file.Fd()), a.offset, n)
		case sealedMemfd:
			spec = mmap.File(sealed, a.offset, n)
		case wholePath:
			spec = mmap.Path(name)
		case secretMemory:
			spec = mmap.Secret(n)
		case nilFile:
			spec = mmap.File(nil, a.offset, n)
		case closedFile:
			spec = mmap.File(gone, a.offset, n)
		case noDescriptor:
			spec = mmap.FD(-1, a.offset, n)
		}
		lead := int(max(a.offset, 0) % int64(onePage))
		where := uintptr(a.addr)
		switch a.placement {
		case atInArena:
			where = own.Start + where%(own.End-own.Start)
		case ontoInArena:
			// It replaces what is there: only within the lower half.
			half := uintptr(arenaPages / 2 * onePage)
			if where %= half; a.size < 0 || a.reserve < a.size || uint64(a.reserve)+uint64(where)+uint64(2*onePage) > uint64(half) || a.has(optHuge) {
				t.Skip("does not fit into the memory that may be replaced")
			}
			where += own.Start
		}
		const goHeap, goHeapEnd, hugePage = 0xc0_0000_0000, 0xe0_0000_0000, 2 << 30
		if a.placement != anywhere && uint64(where) < goHeapEnd && uint64(where)+uint64(max(a.size, a.reserve, 0))+hugePage > goHeap {
			t.Skip("the Go heap of a race build")
		}
		switch a.placement {
		case near:
			spec = spec.Near(where)
		case at, atInArena:
			spec = spec.At(where)
		case ontoInArena:
			spec = spec.UnsafeOnto(where)
		case twice:
			spec = spec.Near(where).At(where)
		}
		for _, o := range []struct {
			option uint16
			with   func(mmap.Spec) mmap.Spec
		}{
			{optShared, mmap.Spec.Shared},
			{optAlign, func(s mmap.Spec) mmap.Spec { return s.Align(int(a.align)) }},
			{optReserve, func(s mmap.Spec) mmap.Spec { return s.Reserve(int(a.reserve)) }},
			{optPopulate, mmap.Spec.Populate},
			{optLock, mmap.Spec.Lock},
			{optHuge, func(s mmap.Spec) mmap.Spec { return s.HugePages(int(a.huge)) }},
			{optOnFault, mmap.Spec.LockOnFault},
			{optNoReserve, mmap.Spec.NoReserve},
			{optLow, mmap.Spec.Low},
			{optDroppable, mmap.Spec.Droppable},
			{optCached, mmap.Spec.PopulateCached},
			{optSynchronous, mmap.Spec.Synchronous},
		} {
			if a.has(o.option) {
				spec = o.with(spec)
			}
		}
		kind, p := unknownKind, mmap.Prot(a.prot)
		if !a.has(optUnknown) && a.prot < 8 {
			kind = modelKinds[a.prot]
		}
		h, err := kind.Create(spec, p)
		bad := a.source == noSource || a.source == nilFile || a.size < 0 || a.offset < 0 || p > 7 || a.placement == twice ||
			a.placement == at && where < uintptr(onePage) || a.has(optReserve) && a.reserve < a.size ||
			a.has(optAlign) && (a.align <= 0 || a.align&(a.align-1) != 0 || a.source < secretMemory && int64(lead)%a.align != 0) ||
			a.has(optDroppable) && (a.source != anonymousMemory || a.options&(optShared|optHuge|optLock|optOnFault) != 0) ||
			a.has(optHuge) && (a.source != anonymousMemory || a.huge != 0 && (a.huge <= int64(onePage) || a.huge&(a.huge-1) != 0)) ||
			a.has(optSynchronous) && (!a.has(optShared) || a.source == anonymousMemory || a.source == secretMemory || a.placement == at || a.placement == atInArena) ||
			a.has(optLow) && a.placement >= at
		if err != nil {
			inert(t, h, mmap.ErrClosed)
			checkMapError(t, err, a, bad)
			return
		}
		defer func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
			walk(t, table, own.Start, own.Page(arenaPages/2), func(at uintptr, area procmaps.Region) {
				t.Fatalf("page %#x is mapped after Close: %v", at, area)
			})
		}()
		forbidden := (a.source == fileReadOnly || a.source == sealedMemfd) && a.has(optShared) && p&mmap.ProtWrite != 0 && a.size > 0
		if bad || forbidden || a.source == closedFile || a.source == noDescriptor {
			t.Fatalf("%v as %v: %v", spec, p, h)
		}
		if h.Len() != int(a.size) || h.Cap() != int(a.reserve) || h.Prot() != p || h.Addr()%uintptr(onePage) != uintptr(lead) {
			t.Fatalf("%v: %v, Cap %d", spec, h, h.Cap())
		}
		if a.placement >= at && h.Addr() != where || a.has(optAlign) && a.reserve > 0 && h.Addr()%uintptr(a.align) != 0 {
			t.Fatalf("%v is misplaced: %v", spec, h)
		}
		if a.has(optLow) && a.reserve > 0 && uint64(h.Addr())+uint64(a.reserve) > 1<<31 {
			t.Fatalf("%v is not low: %v", spec, h)
		}
		confirm(t, table, h, a, lead)
		if r, ok := h.(io.ReaderAt); ok && p&mmap.ProtRead != 0 {
			// What is in the file is there; what is not is a fault.
			got := make([]byte, min(a.size, 4*int64(onePage)))
			n, err := r.ReadAt(got, 0)
			want := make([]byte, len(got))
			if a.source >= fileRange && a.source <= wholePath {
				want = want[:min(max(int64(len(contents))-a.offset, 0), int64(len(got)))]
				copy(want, contents[min(a.offset, int64(len(contents))):])
			}
			if a.has(optHuge) && a.has(optNoReserve) && errors.Is(err, mmap.ErrFault) {
				return // the pool is empty, which is seen now
			}
			if n != len(want) || !bytes.Equal(got[:n], want) || n < len(got) != errors.Is(err, mmap.ErrTruncated) {
				t.Fatalf("%v: read %d bytes, %v, want %d", h, n, err, len(want))
			}
		}
	})
}

// checkMapError fails unless err is one that Map documents, and there is a
// reason for it.
func checkMapError(t *testing.T, err error, a mapArgs, bad bool) {
	t.Helper()
	if a.has(optLock) && !bad && errors.Is(err, mmap.ErrFault) {
		return // a page could not be brought in
	}
	var errno unix.Errno
	if !errors.As(err, &errno) && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("%v has no errno", err)
	}
	if errors.Is(err, os.ErrInvalid) != errors.Is(err, unix.EINVAL) {
		t.Fatalf("%v: EINVAL and os.ErrInvalid are not the same", err)
	}
	// A range past the largest offset is found before a bad alignment.
	if bad && !errors.Is(err, os.ErrInvalid) && errno != unix.EOVERFLOW && errno != unix.EBADF {
		t.Fatalf("%v is no bad argument", err)
	}
	if a.source == closedFile && !bad && !a.has(optHuge) && errno != unix.EOVERFLOW && (!errors.Is(err, os.ErrClosed) || errno != unix.EBADF) {
		t.Fatalf("a closed file: %v", err)
	}
	const rare = optLock | optHuge | optAlign | optOnFault | optLow | optDroppable | optSynchronous
	usual := a.source == anonymousMemory || a.source == fileRange || a.source == descriptorRange || a.source == wholePath
	if usual && !bad && a.placement <= near && a.options&rare == 0 && a.prot&uint8(mmap.ProtExec) == 0 &&
		max(a.size, a.reserve) < 1<<24 && a.offset < 1<<40 {
		t.Fatalf("no reason for %v", err)
	}
}

// confirm asks the kernel whether it has what the mapping says.
func confirm(t *testing.T, table *procmaps.Table, h kinds.AnyHandle, a mapArgs, lead int) {
	t.Helper()
	if a.reserve == 0 {
		return
	}
	granule := uint64(onePage)
	up := func(n uint64) uint64 { return (n + granule - 1) &^ (granule - 1) }
	start := uint64(h.Addr()) - uint64(lead)
	data, end := start+up(uint64(lead)+uint64(a.size)), start+up(uint64(lead)+uint64(a.reserve))
	if a.size == 0 {
		data = start
	}
	want := procmaps.Perms(a.prot)
	shared := a.has(optShared) || a.source == secretMemory
	for at := start; at < end; {
		area, ok, err := table.At(at)
		if err != nil || !ok {
			t.Fatalf("%v: nothing is mapped at %#x: %v", h, at, err)
		}
		perms, stop := want, data
		if at >= data {
			perms, stop = 0, end
		}
		if a.has(optHuge) && at >= data {
			return // huge pages are rounded up into the reserve
		}
		if shared {
			perms |= procmaps.Shared
		}
		if area.Perms != perms {
			t.Fatalf("%v: %#x is %v, want %v", h, at, area.Perms, perms)
		}
		isFile := a.source >= fileRange && a.source <= wholePath
		if isFile && area.Offset+at-area.Start != uint64(a.offset)-uint64(lead)+at-start {
			t.Fatalf("%v: %#x is at offset %#x of the file", h, at, area.Offset+at-area.Start)
		}
		at = min(area.End, stop)
	}
}

type padded struct {
	A uint16
	B uint8
	C [2]int32
	D float64
	E int8
}

// FuzzSlice compares Slice with encoding/binary.
func FuzzSlice(f *testing.F) {
	f.Add([]byte(nil), uint8(0))                       // nothing is valid
	f.Add([]byte{1}, uint8(0))                         // fewer than one value, but for bytes
	f.Add(bytes.Repeat([]byte{1, 2, 3}, 16), uint8(0)) // whole values, and remainders
	f.Add(bytes.Repeat([]byte{0xff}, 64), uint8(0))    // not-a-number
	f.Add(bytes.Repeat([]byte{5}, 40), uint8(1))       // aligned for bytes alone
	f.Add(bytes.Repeat([]byte{6}, 40), uint8(2))       // aligned for two bytes
	f.Add(bytes.Repeat([]byte{7}, 40), uint8(4))       // aligned for four
	f.Fuzz(func(t *testing.T, contents []byte, off uint8) {
		if len(contents) > 100 {
			t.Skip("no more to see than in a few values")
		}
		// Memory of this size is aligned for every type.
		off %= 16
		b := make([]byte, 64+len(contents))[off:][:len(contents)]
		copy(b, contents)
		sliced[byte](t, b)
		sliced[int16](t, b)
		sliced[uint32](t, b)
		sliced[float32](t, b)
		sliced[uint64](t, b)
		sliced[complex128](t, b)
		sliced[[3]uint16](t, b)
		sliced[padded](t, b)
		sliced[[2]padded](t, b)
		refusedSlice[bool](t, b)
		refusedSlice[*byte](t, b)
		refusedSlice[string](t, b)
		refusedSlice[[]byte](t, b)
		refusedSlice[any](t, b)
		refusedSlice[struct{}](t, b)
		refusedSlice[[0]int](t, b)
		refusedSlice[[2]struct {
			A int
			B [1]bool
		}](t, b)
		refusedSlice[struct {
			A int
			B func()
		}](t, b)
	})
}

// sliced compares Slice[T](b) with what encoding/binary makes of each value.
func sliced[T any](t *testing.T, b []byte) {
	t.Helper()
	got, err := mmap.Slice[T](b)
	typ := reflect.TypeFor[T]()
	size := int(typ.Size())
	first := reflect.ValueOf(b).Pointer()
	if misaligned := first%uintptr(typ.Align()) != 0; len(b) > 0 && (misaligned || len(b) < size) {
		if got != nil || !errors.Is(err, os.ErrInvalid) || !errors.Is(err, unix.EINVAL) {
			t.Fatalf("Slice[%v] of %d bytes at %#x: %d values, %v", typ, len(b), first, len(got), err)
		}
		return
	}
	if err != nil || len(got) != len(b)/size || cap(got) != len(got) {
		t.Fatalf("Slice[%v] of %d bytes: %d values, cap %d, %v", typ, len(b), len(got), cap(got), err)
	}
	for i, v := range got {
		have, err := binary.Append(nil, binary.NativeEndian, v)
		if err != nil {
			t.Fatal(err)
		}
		if want := unpadded(nil, typ, b[i*size:(i+1)*size]); !bytes.Equal(have, want) {
			t.Fatalf("Slice[%v]: value %d is % x, want % x", typ, i, have, want)
		}
	}
	if len(got) > 0 && reflect.ValueOf(got).Pointer() != first {
		t.Fatalf("Slice[%v] is a copy", typ)
	}
}

// unpadded appends the bytes of a value without its padding, which is how
// encoding/binary writes it.
func unpadded(to []byte, typ reflect.Type, b []byte) []byte {
	switch typ.Kind() {
	case reflect.Array:
		for i := range typ.Len() {
			n := int(typ.Elem().Size())
			to = unpadded(to, typ.Elem(), b[i*n:(i+1)*n])
		}
		return to
	case reflect.Struct:
		for i := range typ.NumField() {
			field := typ.Field(i)
			to = unpadded(to, field.Type, b[field.Offset:field.Offset+field.Type.Size()])
		}
		return to
	}
	return append(to, b...)
}

// refusedSlice fails unless T is refused, whatever the bytes.
func refusedSlice[T any](t *testing.T, b []byte) {
	t.Helper()
	if got, err := mmap.Slice[T](b); got != nil || !errors.Is(err, os.ErrInvalid) {
		t.Fatalf("Slice[%v] of %d bytes: %d values, %v", reflect.TypeFor[T](), len(b), len(got), err)
	}
}
