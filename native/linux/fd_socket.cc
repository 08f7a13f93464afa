#include "fd_socket.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "unix_address.hpp"

namespace vmring {
namespace {

constexpr int message_bytes = 8;
// Level-triggered polling brings the rest in the next turn, so one busy socket cannot hold up the loop.
constexpr int messages_per_turn = 64;
constexpr uint64_t retry_ms = 10;

void store_le(uint8_t* out, int64_t value) {
  const auto bits = static_cast<uint64_t>(value);
  for (int i = 0; i < message_bytes; ++i) out[i] = static_cast<uint8_t>(bits >> (8 * i));
}

int64_t load_le(const uint8_t* in) {
  uint64_t bits = 0;
  for (int i = 0; i < message_bytes; ++i) bits |= static_cast<uint64_t>(in[i]) << (8 * i);
  return static_cast<int64_t>(bits);
}

bool out_of_resources(int code) {
  return code == EMFILE || code == ENFILE || code == ENOBUFS || code == ENOMEM || code == ETOOMANYREFS;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------- FdSocket

FdSocket::FdSocket(uv_loop_t* loop, LoopUsers* users, int fd, Role role, Delegate* delegate)
    : loop_(loop), users_(users), delegate_(delegate), fd_(fd), role_(role) {
  ++users_->live;
  uv_timer_init(loop, &timer_);
  timer_.data = this;
  handles_ = 1;
}

FdSocket* FdSocket::adopt(uv_loop_t* loop, LoopUsers* users, int fd, Role role, Delegate* delegate, OsError* error) {
  auto* socket = new FdSocket(loop, users, fd, role, delegate);
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0) {
    socket->uid_ = credentials.uid;
    socket->pid_ = credentials.pid;
  }
  const int code = socket->start_poll();
  if (code == 0) return socket;
  *error = {.code = code, .syscall = "poll"};
  socket->close();
  return nullptr;
}

FdSocket* FdSocket::connect(uv_loop_t* loop, LoopUsers* users, const char* path, Delegate* delegate, OsError* error) {
  sockaddr_un address;
  if (!make_address(path, &address)) {
    *error = {.code = UV_ENAMETOOLONG, .syscall = "connect", .address = path};
    return nullptr;
  }
  const int fd = unix_socket();
  if (fd < 0) {
    *error = {.code = -errno, .syscall = "socket", .address = path};
    return nullptr;
  }
  auto* socket = new FdSocket(loop, users, fd, Role::client, delegate);
  socket->path_ = path;
  socket->try_connect();
  if (socket->failure_.code == 0) return socket;
  *error = socket->failure_;
  socket->close();
  return nullptr;
}

// A Unix socket connects at once or not at all; EAGAIN is the listener's backlog being full.
void FdSocket::try_connect() {
  sockaddr_un address;
  make_address(path_.c_str(), &address);
  int result;
  do {
    result = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  } while (result < 0 && errno == EINTR);
  connecting_ = false;
  if (result == 0) {
    ucred credentials{};
    socklen_t length = sizeof(credentials);
    if (::getsockopt(fd_, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0) {
      uid_ = credentials.uid;
      pid_ = credentials.pid;
    }
    const int code = start_poll();
    if (code != 0) failure_ = {.code = code, .syscall = "poll", .address = path_};
  } else if (errno == EAGAIN) {
    connecting_ = true;
    uv_timer_start(&timer_, timer_event, retry_ms, 0);
  } else {
    failure_ = {.code = -errno, .syscall = "connect", .address = path_};
  }
}

int FdSocket::start_poll() {
  const int code = uv_poll_init(loop_, &poll_, fd_);
  if (code != 0) return code;
  poll_.data = this;
  polling_ = true;
  ++handles_;
  if (!referenced_) uv_unref(reinterpret_cast<uv_handle_t*>(&poll_));
  return uv_poll_start(&poll_, UV_READABLE, poll_event);
}

void FdSocket::update_poll() {
  if (!polling_ || closing_) return;
  const bool writable = (want_writable_ && !starved_) || out_count_ > 0;
  uv_poll_start(&poll_, UV_READABLE | (writable ? UV_WRITABLE : 0), poll_event);
}

void FdSocket::ref(bool keep_loop_alive) {
  if (closing_) return;
  referenced_ = keep_loop_alive;
  const auto apply = [&](uv_handle_t* handle) { keep_loop_alive ? uv_ref(handle) : uv_unref(handle); };
  apply(reinterpret_cast<uv_handle_t*>(&timer_));
  if (polling_) apply(reinterpret_cast<uv_handle_t*>(&poll_));
}

bool FdSocket::flush_rest() {
  while (out_count_ > 0) {
    const ssize_t sent = ::send(fd_, out_, static_cast<size_t>(out_count_), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) fail_later(-errno, "send");
      return false;
    }
    out_count_ -= static_cast<int>(sent);
    std::memmove(out_, out_ + sent, static_cast<size_t>(out_count_));
  }
  return true;
}

bool FdSocket::send(int64_t value, int fd) {
  if (closing_ || !polling_ || failure_.code != 0 || !flush_rest()) return false;
  uint8_t bytes[message_bytes];
  store_le(bytes, value);
  iovec part{.iov_base = bytes, .iov_len = message_bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  ssize_t sent;
  do {
    sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
    // Too many descriptors in flight, or no memory: the socket may well be writable, so only time helps.
    if (out_of_resources(errno)) {
      starved_ = true;
      return false;
    }
    fail_later(-errno, "sendmsg");
    return false;
  }
  if (sent < message_bytes) {
    out_count_ = message_bytes - static_cast<int>(sent);
    std::memcpy(out_, bytes + sent, static_cast<size_t>(out_count_));
    update_poll();
  }
  return true;
}

void FdSocket::want_writable() {
  if (closing_ || want_writable_) return;
  want_writable_ = true;
  if (starved_) uv_timer_start(&timer_, timer_event, retry_ms, 0);
  update_poll();
}

// The caller is inside send(): on_close comes from the loop, never from there.
void FdSocket::fail_later(int code, const char* syscall) {
  if (failure_.code != 0) return;
  failure_ = {.code = code, .syscall = syscall, .address = path_};
  uv_timer_start(&timer_, timer_event, 0, 0);
}

void FdSocket::on_timer() {
  if (connecting_) {
    try_connect();
    if (connecting_ || failure_.code == 0) return;
  }
  if (failure_.code != 0) {
    const OsError error = failure_;
    finish(&error);
    return;
  }
  if (starved_) {
    starved_ = false;
    update_poll();
  }
}

void FdSocket::finish(const OsError* error) {
  Delegate* delegate = delegate_;
  close();
  if (delegate != nullptr) delegate->on_close(error);
}

// Reads at most to the end of the current message, so that a descriptor always belongs to the message being read.
bool FdSocket::read_once(bool* more) {
  iovec part{.iov_base = in_ + in_count_, .iov_len = static_cast<size_t>(message_bytes - in_count_)};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t count;
  do {
    count = ::recvmsg(fd_, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (count < 0 && errno == EINTR);
  if (count < 0) {
    *more = false;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
    const OsError error{.code = -errno, .syscall = "recvmsg", .address = path_};
    finish(&error);
    return false;
  }
  bool surplus = false;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t fds = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < fds; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      if (in_fd_ < 0) {
        in_fd_ = fd;
      } else {
        close_fd(fd);
        surplus = true;
      }
    }
  }
  if (count == 0) {
    finish(nullptr);
    return false;
  }
  if (role_ == Role::server) {
    const OsError error{.code = UV_EPROTO, .syscall = "recvmsg", .text = "the client sent data in a server-to-client protocol"};
    finish(&error);
    return false;
  }
  if (surplus || (message.msg_flags & MSG_CTRUNC) != 0) {
    const OsError error{.code = UV_EPROTO, .syscall = "recvmsg", .address = path_,
                        .text = "more than one descriptor came with a message, or this process has none left to receive it"};
    finish(&error);
    return false;
  }
  in_count_ += static_cast<int>(count);
  return true;
}

// False: nothing more is there at the moment.
bool FdSocket::read_messages() {
  bool more = true;
  for (int done = 0; more && done < messages_per_turn;) {
    if (!read_once(&more)) return true;
    if (in_count_ < message_bytes) continue;
    in_count_ = 0;
    ++done;
    const int fd = in_fd_;
    in_fd_ = -1;
    delegate_->on_message(load_le(in_), fd);
    if (closing_) return true;
  }
  return more;
}

void FdSocket::close() {
  if (closing_) return;
  closing_ = true;
  delegate_ = nullptr;
  if (polling_) uv_close(reinterpret_cast<uv_handle_t*>(&poll_), handle_closed);
  uv_close(reinterpret_cast<uv_handle_t*>(&timer_), handle_closed);
  // uv_close has taken it out of the loop's epoll set.
  close_fd(fd_);
  close_fd(in_fd_);
  fd_ = in_fd_ = -1;
}

void FdSocket::poll_event(uv_poll_t* handle, int status, int events) {
  auto* self = static_cast<FdSocket*>(handle->data);
  if (status < 0) {
    // libuv says EBADF for any error on the socket and stops polling. What has come before the error is still there to be
    // read, and reading tells the real reason.
    const bool more = self->read_messages();
    if (self->closing_) return;
    if (more) {
      self->update_poll();
      return;
    }
    const OsError error{.code = status, .syscall = "poll", .address = self->path_};
    self->finish(&error);
    return;
  }
  if ((events & UV_READABLE) != 0) self->read_messages();
  if (self->closing_ || (events & UV_WRITABLE) == 0) return;
  const bool flushed = self->flush_rest();
  const bool tell = flushed && self->want_writable_ && !self->starved_;
  if (tell) self->want_writable_ = false;
  self->update_poll();
  if (tell) self->delegate_->on_writable();
}

void FdSocket::timer_event(uv_timer_t* handle) { static_cast<FdSocket*>(handle->data)->on_timer(); }

void FdSocket::handle_closed(uv_handle_t* handle) {
  auto* self = static_cast<FdSocket*>(handle->data);
  if (--self->handles_ > 0) return;
  LoopUsers* users = self->users_;
  delete self;
  users->gone();
}

}  // namespace vmring
