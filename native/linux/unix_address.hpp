// Small things that both sides of a Unix socket need.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

namespace vmring {

inline void close_fd(int fd) {
  if (fd >= 0) ::close(fd);
}

// False when the path is empty or longer than a socket address holds (107 bytes).
inline bool make_address(const char* path, sockaddr_un* address) {
  const size_t length = std::strlen(path);
  if (length == 0 || length >= sizeof(address->sun_path)) return false;
  std::memset(address, 0, sizeof(*address));
  address->sun_family = AF_UNIX;
  std::memcpy(address->sun_path, path, length);
  return true;
}

inline int unix_socket() { return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

}  // namespace vmring
