// Memory behind a region: a sealed memfd, a file, a descriptor that somebody passed on, or private pages.
//
// Shared mappings keep their address range for ever. close() puts anonymous pages over it, because JavaScript views and
// thread-pool jobs may still point there; they read zeros then, never somebody else's memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "linux/sigbus.hpp"

namespace vmring {

struct SystemError : std::runtime_error {
  SystemError(int error_number, const char* call, std::string where = {})
      : std::runtime_error(call), number(error_number), syscall(call), path(std::move(where)) {}
  int number; // errno
  const char* syscall;
  std::string path;
};

// The memory exists but has no usable size.
// No bytes at all.
struct EmptyError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct SizeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Mapping {
 public:
  // memfd, sealed against shrinking and growing. Size: a power of two of at least 1 MiB, else SizeError.
  static std::shared_ptr<Mapping> create(const std::string& name, uint64_t size);
  // Takes the descriptor over, also when it throws.
  static std::shared_ptr<Mapping> from_fd(int fd);
  // `create_size` 0: the file must exist. Else a file that is not there appears at once with that many bytes.
  static std::shared_ptr<Mapping> open(const std::string& path, uint64_t create_size);
  // Zeroed pages of this process alone; unmapped when the last owner goes.
  static std::shared_ptr<Mapping> anonymous(uint64_t size);
  // Shared memory that somebody else has mapped (a device's BAR): takes the range over.
  static std::shared_ptr<Mapping> adopt(uint8_t* data, uint64_t size);

  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }
  int fd() const { return fd_; }
  bool lost() const { return range_->lost.load(std::memory_order_acquire) != 0; }
  // Marks the memory as gone and puts zero pages over it; kept bytes stay readable until the last view is gone.
  void close() noexcept;
  // The memory is about to be taken away: from now on the range is private pages, with the same bytes in the ranges `kept`.
  // False: no memory for that, and nothing has changed.
  bool detach(std::span<const ByteRange> kept) noexcept;
  bool detached() const { return detached_; }

 private:
  Mapping(uint8_t* data, uint64_t size, int fd, bool shared);
  static std::shared_ptr<Mapping> map(int fd, uint64_t size, const std::string& path);

  uint8_t* data_;
  uint64_t size_;
  int fd_;
  bool shared_;
  bool detached_ = false;
  GuardedRange* range_; // shared mappings: on the list of the fault handler, for good
};

} // namespace vmring
