#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "fd_socket.hpp"
#include "unix_address.hpp"

namespace vmring {
namespace {

constexpr int accepts_per_turn = 64;
constexpr uint64_t backoff_ms = 100;
constexpr int lock_attempts = 100;

}  // namespace

FdListener::FdListener(uv_loop_t* loop, LoopUsers* users, int fd, bool speaks_first, Delegate* delegate)
    : users_(users),
      delegate_(delegate),
      fd_(fd),
      reserve_(::open("/dev/null", O_RDONLY | O_CLOEXEC)),
      speaks_first_(speaks_first) {
  ++users_->live;
  uv_timer_init(loop, &timer_);
  timer_.data = this;
  handles_ = 1;
}

FdListener* FdListener::adopt(uv_loop_t* loop, LoopUsers* users, int fd, bool speaks_first, Delegate* delegate,
                              OsError* error) {
  auto* listener = new FdListener(loop, users, fd, speaks_first, delegate);
  int code = uv_poll_init(loop, &listener->poll_, fd);
  if (code == 0) {
    listener->poll_.data = listener;
    ++listener->handles_;
    code = uv_poll_start(&listener->poll_, UV_READABLE, poll_event);
  }
  if (code == 0) return listener;
  *error = {.code = code, .syscall = "poll"};
  listener->close();
  return nullptr;
}

void FdListener::ref(bool keep_loop_alive) {
  if (closing_) return;
  auto* poll = reinterpret_cast<uv_handle_t*>(&poll_);
  auto* timer = reinterpret_cast<uv_handle_t*>(&timer_);
  keep_loop_alive ? uv_ref(poll) : uv_unref(poll);
  keep_loop_alive ? uv_ref(timer) : uv_unref(timer);
}

void FdListener::close() {
  if (closing_) return;
  closing_ = true;
  delegate_ = nullptr;
  if (handles_ == 2) uv_close(reinterpret_cast<uv_handle_t*>(&poll_), handle_closed);
  uv_close(reinterpret_cast<uv_handle_t*>(&timer_), handle_closed);
  close_fd(fd_);
  close_fd(reserve_);
  fd_ = reserve_ = -1;
}

void FdListener::accept_some() {
  for (int i = 0; i < accepts_per_turn && !closing_; ++i) {
    const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
      // Somebody who only looked whether anybody is here (a second daemon does) is gone already and costs no peer id.
      char byte;
      if (speaks_first_ && ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
        close_fd(fd);
      } else {
        delegate_->on_connection(fd);
      }
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) turn_away(errno);
    return;
  }
}

// Without this a full descriptor table would make the loop spin on a connection that can never be accepted.
void FdListener::turn_away(int code) {
  bool refused = false;
  if ((code == EMFILE || code == ENFILE) && reserve_ >= 0) {
    close_fd(reserve_);
    const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    refused = fd >= 0;
    close_fd(fd);
    reserve_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  }
  if (!refused) {
    uv_poll_stop(&poll_);
    uv_timer_start(&timer_, timer_event, backoff_ms, 0);
    if (reserve_ < 0) reserve_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  }
  delegate_->on_refused({.code = -code, .syscall = "accept"});
}

void FdListener::poll_event(uv_poll_t* handle, int status, int) {
  auto* self = static_cast<FdListener*>(handle->data);
  if (status < 0) {
    self->turn_away(-status);
  } else {
    self->accept_some();
  }
}

void FdListener::timer_event(uv_timer_t* handle) {
  auto* self = static_cast<FdListener*>(handle->data);
  uv_poll_start(&self->poll_, UV_READABLE, poll_event);
}

void FdListener::handle_closed(uv_handle_t* handle) {
  auto* self = static_cast<FdListener*>(handle->data);
  if (--self->handles_ > 0) return;
  LoopUsers* users = self->users_;
  delete self;
  users->gone();
}

// ------------------------------------------------------------------------------------------------- open_unix_listener

namespace {

// Two daemons starting at once must not both find the same stale file and unlink each other's socket: the directory is
// locked while looking and binding. A lock that somebody else sits on for a second is not waited for any longer.
int lock_directory(const char* path) {
  std::string directory(path);
  const size_t slash = directory.rfind('/');
  directory = slash == std::string::npos ? "." : slash == 0 ? "/" : directory.substr(0, slash);
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return -1;
  for (int i = 0; i < lock_attempts && ::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; ++i) ::usleep(10000);
  return fd;
}

// 0: nothing is in the way (any more); else a negative errno.
int clear_stale(const sockaddr_un& address) {
  struct stat info;
  if (::lstat(address.sun_path, &info) != 0) return errno == ENOENT ? 0 : -errno;
  if (!S_ISSOCK(info.st_mode)) return -EEXIST;
  const int probe = unix_socket();
  if (probe < 0) return -errno;
  const int result = ::connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  const int code = errno;
  close_fd(probe);
  if (result == 0) return -EADDRINUSE;
  if (code == ENOENT) return 0;
  if (code == EACCES || code == EPERM) return -code;
  // EAGAIN: a full backlog, so somebody listens; EPROTOTYPE: another kind of socket is alive there.
  if (code != ECONNREFUSED) return -EADDRINUSE;
  return ::unlink(address.sun_path) == 0 || errno == ENOENT ? 0 : -errno;
}

}  // namespace

int open_unix_listener(const char* path, mode_t mode, gid_t gid, OsError* error) {
  sockaddr_un address;
  int fd = -1;
  int lock = -1;
  const auto fail = [&](int code, const char* syscall) {
    close_fd(fd);
    close_fd(lock);
    *error = {.code = code, .syscall = syscall, .address = path};
    return -1;
  };
  if (!make_address(path, &address)) return fail(UV_ENAMETOOLONG, "bind");
  lock = lock_directory(path);
  const int stale = clear_stale(address);
  if (stale != 0) return fail(stale, "bind");
  fd = unix_socket();
  if (fd < 0) return fail(-errno, "socket");
  // The new file inherits the socket's own mode: nobody can slip in between bind and chmod.
  ::fchmod(fd, mode & 0600);
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return fail(-errno, "bind");
  const auto undo = [&](const char* syscall) {
    const int code = -errno;
    ::unlink(path);
    return fail(code, syscall);
  };
  if (gid != static_cast<gid_t>(-1) && ::chown(path, static_cast<uid_t>(-1), gid) != 0) return undo("chown");
  if (::chmod(path, mode) != 0) return undo("chmod");
  if (::listen(fd, SOMAXCONN) != 0) return undo("listen");
  close_fd(lock);
  return fd;
}

}  // namespace vmring
