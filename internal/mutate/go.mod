module github.com/mmarinus/mmap/internal/mutate

go 1.26.0
