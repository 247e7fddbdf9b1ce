package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The format. The header is in the first page, twice: it is written in turns, so a torn
// one leaves the other. Behind that page are the records, each as long as it says:
//
//	header  magic, version (4 bytes), length of what is surely whole (8), checksum (4)
//	record  checksum (4), length of the key (4), of the value (4) or gone, key, value
const (
	magic, version = "mmstore\n", 1
	headerSize     = len(magic) + 16
	second         = 2048 // where the second header is
	start          = 4096 // of the records
	head           = 12   // bytes before the key
	gone           = 1<<32 - 1
	most           = 1 << 30 // bytes of a key and its value
)

var little, errTorn = binary.LittleEndian, errors.New("no whole record")

func header(length int64) []byte {
	h := little.AppendUint32([]byte(magic), version)
	h = little.AppendUint64(h, uint64(length))
	return little.AppendUint32(h, crc32.ChecksumIEEE(h))
}

// record calls use with the record at off, and returns where it ends. The value is nil if
// the key is gone. Both are the memory itself: use copies what it keeps.
func record(s snapshot, off, size int64, use func(key, value []byte) error) (int64, error) {
	var h [head]byte // checked as a copy: what is in the file can change
	if size-off < head {
		return 0, fmt.Errorf("%w at %d", errTorn, off)
	}
	if err := s.view(off, head, func(b []byte) error { copy(h[:], b); return nil }); err != nil {
		return 0, err
	}
	key, value := int64(little.Uint32(h[4:])), int64(little.Uint32(h[8:]))
	n := head + key
	if value != gone {
		n += value
	}
	if n > size-off || n > head+most {
		return 0, fmt.Errorf("%w at %d", errTorn, off)
	}
	return off + n, s.view(off, n, func(b []byte) error {
		if crc32.Update(crc32.ChecksumIEEE(h[4:]), crc32.IEEETable, b[head:]) != little.Uint32(h[:]) {
			return fmt.Errorf("%w at %d", errTorn, off)
		}
		if value == gone {
			return use(b[head:], nil)
		}
		return use(b[head:head+key:head+key], b[head+key:])
	})
}
