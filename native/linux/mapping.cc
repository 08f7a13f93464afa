#include "linux/mapping.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdio>

#include "core/layout.hpp"
#include "linux/pci.hpp"

namespace vmring {
namespace {

void check_size(uint64_t size) {
  if (size < kMinRegion || !std::has_single_bit(size)) {
    throw SizeError("a region is a power of two of at least 1 MiB, not " + std::to_string(size) + " bytes");
  }
}

class Descriptor { // closes unless released
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

 private:
  int fd_;
};

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// The file appears under its name with its full size or not at all, so that nobody can meet it empty.
// Returns −1 with errno EEXIST when somebody else was first.
int create_file(const std::string& path, uint64_t size) {
  Descriptor fd(::open(directory_of(path).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd.get() < 0) {
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) throw SystemError(errno, "open", path);
    // A file system without O_TMPFILE: the plain way, with a moment in which the file is empty.
    Descriptor plain(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (plain.get() < 0) {
      if (errno == EEXIST) return -1;
      throw SystemError(errno, "open", path);
    }
    if (ftruncate(plain.get(), static_cast<off_t>(size)) != 0) throw SystemError(errno, "ftruncate", path);
    return plain.release();
  }
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) throw SystemError(errno, "ftruncate", path);
  char link[64];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd.get());
  if (linkat(AT_FDCWD, link, AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    if (errno == EEXIST) return -1;
    throw SystemError(errno, "link", path);
  }
  return fd.release();
}

} // namespace

Mapping::Mapping(uint8_t* data, uint64_t size, int fd, bool shared)
    : data_(data), size_(size), fd_(fd), shared_(shared), range_(new GuardedRange(data, size)) {
  if (shared_) guard(range_);
}

Mapping::~Mapping() {
  if (shared_) {
    close();
    if (detached_) replace_pages(range_->begin, range_->size); // nobody looks at the kept bytes any more
    return;
  }
  munmap(data_, size_); // private pages: this runs when no view is left
  delete range_;
}

std::shared_ptr<Mapping> Mapping::map(int fd, uint64_t size, const std::string& path) {
  Descriptor owned(fd);
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) throw SystemError(errno, "mmap", path);
  madvise(at, size, MADV_DONTFORK);
  return std::shared_ptr<Mapping>(new Mapping(static_cast<uint8_t*>(at), size, owned.release(), true));
}

std::shared_ptr<Mapping> Mapping::create(const std::string& name, uint64_t size) {
  check_size(size);
  Descriptor fd(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (fd.get() < 0) throw SystemError(errno, "memfd_create", name);
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) throw SystemError(errno, "ftruncate", name);
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    throw SystemError(errno, "fcntl", name);
  }
  return map(fd.release(), size, name);
}

std::shared_ptr<Mapping> Mapping::from_fd(int fd) {
  Descriptor owned(fd);
  struct stat info = {};
  if (fstat(fd, &info) != 0) {
    const int number = errno;
    if (number == EBADF) owned.release();
    throw SystemError(number, "fstat");
  }
  if (info.st_size <= 0) throw EmptyError("the descriptor has no bytes to map");
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  return map(owned.release(), static_cast<uint64_t>(info.st_size), {});
}

std::shared_ptr<Mapping> Mapping::open(const std::string& path, uint64_t create_size) {
  if (create_size != 0) check_size(create_size);
  for (int attempt = 0;; ++attempt) {
    Descriptor fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (fd.get() >= 0) {
      struct stat info = {};
      if (fstat(fd.get(), &info) != 0) throw SystemError(errno, "fstat", path);
      if (S_ISDIR(info.st_mode)) throw SystemError(EISDIR, "open", path);
      if (info.st_size <= 0) throw EmptyError(path + " is a file of zero bytes");
      return map(fd.release(), static_cast<uint64_t>(info.st_size), path);
    }
    if (errno != ENOENT || create_size == 0 || attempt == 8) throw SystemError(errno, "open", path);
    const int made = create_file(path, create_size);
    if (made >= 0) return map(made, create_size, path);
  }
}

std::shared_ptr<Mapping> Mapping::anonymous(uint64_t size) {
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw SystemError(errno, "mmap");
  madvise(at, size, MADV_DONTFORK);
  return std::shared_ptr<Mapping>(new Mapping(static_cast<uint8_t*>(at), size, -1, false));
}

std::shared_ptr<Mapping> Mapping::adopt(uint8_t* data, uint64_t size) {
  return std::shared_ptr<Mapping>(new Mapping(data, size, -1, true));
}

bool Mapping::detach(std::span<const ByteRange> kept) noexcept {
  if (detached_ || lost()) return detached_;
  detached_ = keep_bytes(data_, size_, kept);
  return detached_;
}

void Mapping::close() noexcept {
  if (!shared_) {
    range_->lost.store(1, std::memory_order_release);
    return;
  }
  const bool first = range_->lost.exchange(1) == 0;
  if (!detached_ && (first || fd_ >= 0)) replace_pages(range_->begin, range_->size);
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

} // namespace vmring
