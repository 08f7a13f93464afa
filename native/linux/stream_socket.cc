#include "stream_socket.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
// needs sys/socket.h before it
#include <linux/vm_sockets.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

namespace vmring {
namespace {

constexpr uint64_t retry_ms = 10;
constexpr int parts_at_once = 64;
// Level-triggered polling brings the rest in the next turn, so one busy socket cannot hold up the loop.
constexpr int calls_per_turn = 16;

int vsock_socket() { return ::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

sockaddr_vm vsock_address(uint32_t cid, uint32_t port) {
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = cid;
  address.svm_port = port;
  return address;
}

// For speed only: what the kernel refuses stays as it was.
void set_buffers(int fd, bool vsock, uint64_t bytes) {
  if (bytes == 0) return;
  if (vsock) {
    ::setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &bytes, sizeof(bytes));
    ::setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &bytes, sizeof(bytes));
    return;
  }
  const int size = static_cast<int>(std::min<uint64_t>(bytes, INT32_MAX / 2));
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
  ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

int socket_error(int fd) {
  int code = 0;
  socklen_t length = sizeof(code);
  return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &length) == 0 ? code : errno;
}

OsError failure(int code, const char* syscall, const StreamAddress& address) {
  OsError error{.code = code, .syscall = syscall};
  error.address = address.vsock ? std::to_string(address.cid) : address.path;
  if (address.vsock) error.port = address.port;
  return error;
}

}  // namespace

StreamSocket::StreamSocket(uv_loop_t* loop, LoopUsers* users, int fd, Delegate* delegate)
    : Polled(loop, users, fd), delegate_(delegate) {}

StreamSocket* StreamSocket::adopt(uv_loop_t* loop, LoopUsers* users, int fd, Delegate* delegate, OsError* error) {
  auto* socket = new StreamSocket(loop, users, fd, delegate);
  socket->address_ = stream_address_of(fd);
  socket->learn_names();
  const int code = socket->open_poll();
  if (code == 0) return socket;
  *error = {.code = code, .syscall = "poll"};
  socket->close();
  return nullptr;
}

StreamSocket* StreamSocket::connect(uv_loop_t* loop, LoopUsers* users, const StreamAddress& address,
                                    const StreamOptions& options, Delegate* delegate) {
  const int fd = address.vsock ? vsock_socket() : unix_socket();
  const int code = -errno;
  auto* socket = new StreamSocket(loop, users, fd, delegate);
  socket->address_ = address;
  socket->peer_.cid = address.cid;
  socket->peer_.port = address.port;
  if (fd < 0) {
    socket->fail_later(code, "socket");
  } else {
    socket->start_connect(options);
  }
  return socket;
}

void StreamSocket::start_connect(const StreamOptions& options) {
  if (options.limit != 0) deadline_ = now() + options.limit;
  set_buffers(fd_, address_.vsock, options.buffer);
  if (address_.vsock && options.limit != 0) {
    // The kernel gives up after two seconds unless told; a little later than we do.
    const uint64_t limit = uint64_t{options.limit} + 1000;
    const timeval time{.tv_sec = static_cast<time_t>(limit / 1000), .tv_usec = static_cast<suseconds_t>(limit % 1000 * 1000)};
    ::setsockopt(fd_, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &time, sizeof(time));
  }
  const int code = open_poll();
  if (code != 0) {
    fail_later(code, "poll");
    return;
  }
  connecting_ = true;
  try_connect();
}

void StreamSocket::try_connect() {
  int result = -1;
  retrying_ = false;
  if (address_.vsock) {
    const sockaddr_vm address = vsock_address(address_.cid, address_.port);
    result = ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  } else {
    sockaddr_un address;
    if (!make_address(address_.path.c_str(), &address)) {
      connect_done(ENAMETOOLONG);
      return;
    }
    result = ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  }
  if (result == 0) {
    connect_done(0);
  } else if (errno == EINPROGRESS || errno == EINTR) {
    want(UV_WRITABLE);
    if (deadline_ != 0) set_timer(deadline_ - std::min(deadline_, now()));
  } else if (errno == EAGAIN && !address_.vsock) {
    // A Unix socket connects at once or not at all; this is the listener's backlog being full.
    retrying_ = true;
    set_timer(retry_ms);
  } else {
    connect_done(errno);
  }
}

// Nothing is told from here: the caller may still be inside connect().
void StreamSocket::connect_done(int code) {
  connecting_ = retrying_ = false;
  if (code != 0) {
    fail_later(-code, "connect");
    return;
  }
  learn_names();
  tell_connect_ = true;
  set_timer(0);
  update();
}

void StreamSocket::learn_names() {
  local_ = stream_address_of(fd_);
  if (address_.vsock) {
    sockaddr_vm address{};
    socklen_t length = sizeof(address);
    if (::getpeername(fd_, reinterpret_cast<sockaddr*>(&address), &length) == 0) {
      peer_.cid = address.svm_cid;
      peer_.port = address.svm_port;
    }
    return;
  }
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (::getsockopt(fd_, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0) {
    peer_ = {.uid = credentials.uid, .gid = credentials.gid, .pid = credentials.pid};
  }
}

void StreamSocket::on_poll(int status, int events) {
  if (connecting_) {
    const int code = socket_error(fd_);
    want(0);
    stop_timer();
    connect_done(code != 0 ? code : status < 0 ? ECONNRESET : 0);
    return;
  }
  if (tell_connect_) on_timer();
  if (is_shut()) return;
  // What has come before an error is still there to be read, and reading or writing tells the real reason.
  const bool broken = status < 0;
  if (reading_ && (broken || (events & UV_READABLE) != 0)) read_some();
  if (!is_shut() && writing_ && (broken || (events & UV_WRITABLE) != 0)) flush();
  if (is_shut()) return;
  if (const int code = broken ? socket_error(fd_) : 0; code != 0) {
    const OsError error = failure(-code, "poll", address_);
    finish(&error);
    return;
  }
  update();
}

void StreamSocket::on_timer() {
  if (failure_.code != 0) {
    const OsError error = failure_;
    finish(&error);
    return;
  }
  if (connecting_) {
    if (deadline_ != 0 && now() >= deadline_) {
      const OsError error = failure(-ETIMEDOUT, "connect", address_);
      finish(&error);
    } else if (retrying_) {
      try_connect();
    }
    return;
  }
  if (tell_connect_) {
    tell_connect_ = false;
    delegate_->on_connect();
    if (is_shut()) return;
    if (writing_) flush();
    if (is_shut()) return;
    if (ending_ && !writing_) shut_writing();
    update();
  }
  if (tell_finish_) {
    tell_finish_ = false;
    delegate_->on_finish();
    if (!is_shut() && ended_) finish(nullptr);
  }
}

void StreamSocket::read(bool wanted) {
  reading_ = wanted && !ended_;
  update();
}

void StreamSocket::read_some() {
  for (int calls = 0; calls < calls_per_turn && reading_ && !is_shut(); ++calls) {
    const Target target = delegate_->read_target();
    if (target.length == 0) {
      reading_ = false;
      return;
    }
    ssize_t count;
    do {
      count = ::recv(fd_, target.data, target.length, MSG_DONTWAIT);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      const OsError error = failure(-errno, "read", address_);
      finish(&error);
      return;
    }
    if (count == 0) {
      reading_ = false;
      ended_ = true;
      delegate_->on_end();
      if (!is_shut() && finished_ && !tell_finish_) finish(nullptr);
      return;
    }
    delegate_->on_read(static_cast<size_t>(count));
    if (static_cast<size_t>(count) < target.length) return;
  }
}

size_t StreamSocket::send(iovec* parts, size_t count) {
  if (is_shut() || connecting_ || failure_.code != 0) return 0;
  size_t total = 0;
  while (count > 0) {
    const size_t now_out = std::min<size_t>(count, IOV_MAX);
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = now_out;
    size_t wanted = 0;
    for (size_t i = 0; i < now_out; ++i) wanted += parts[i].iov_len;
    ssize_t sent;
    do {
      sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
      if (errno != EAGAIN && errno != EWOULDBLOCK) fail_later(-errno, "write");
      break;
    }
    total += static_cast<size_t>(sent);
    if (static_cast<size_t>(sent) < wanted) break;
    parts += now_out;
    count -= now_out;
  }
  return total;
}

void StreamSocket::want_writable() {
  writing_ = true;
  update();
}

void StreamSocket::flush() {
  iovec parts[parts_at_once];
  for (int calls = 0; calls < calls_per_turn && failure_.code == 0; ++calls) {
    const int count = delegate_->gather(parts, parts_at_once);
    if (count < 0) {
      const OsError error = failure(-EFAULT, "write", address_);
      finish(&error);
      return;
    }
    if (count == 0) {
      writing_ = false;
      delegate_->on_drain();
      // The handler may have written, closed or ended.
      if (!is_shut() && ending_ && !writing_ && !finished_) shut_writing();
      return;
    }
    size_t wanted = 0;
    for (int i = 0; i < count; ++i) wanted += parts[i].iov_len;
    const size_t sent = send(parts, static_cast<size_t>(count));
    delegate_->on_sent(sent);
    if (sent < wanted) return;
  }
}

void StreamSocket::end() {
  if (is_shut() || ending_) return;
  ending_ = true;
  if (!writing_ && !connecting_ && !tell_connect_ && failure_.code == 0) shut_writing();
}

void StreamSocket::shut_writing() {
  // ENOTCONN: the other side is gone already, and reading says so.
  ::shutdown(fd_, SHUT_WR);
  finished_ = tell_finish_ = true;
  if (failure_.code == 0) set_timer(0);
}

void StreamSocket::update() {
  if (connecting_) return;
  const bool writable = writing_ && failure_.code == 0;
  want((reading_ ? UV_READABLE : 0) | (writable ? UV_WRITABLE : 0));
}

// The caller is inside a call of the delegate's: on_close comes from the loop, never from there.
void StreamSocket::fail_later(int code, const char* syscall) {
  if (failure_.code != 0) return;
  failure_ = failure(code, syscall, address_);
  set_timer(0);
}

void StreamSocket::finish(const OsError* error) {
  Delegate* delegate = delegate_;
  close();
  if (delegate != nullptr) delegate->on_close(error);
}

void StreamSocket::close() {
  delegate_ = nullptr;
  shut();
}

void StreamSocket::reset() {
  if (!is_shut()) {
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  }
  close();
}

// ---------------------------------------------------------------------------------------------------------- listening

int open_stream_listener(const StreamAddress& address, unsigned mode, int backlog, uint64_t buffer, OsError* error) {
  const int length = backlog > 0 ? backlog : SOMAXCONN;
  if (!address.vsock) {
    const int fd = open_unix_listener(address.path.c_str(), mode, static_cast<gid_t>(-1), error);
    if (fd < 0) return fd;
    set_buffers(fd, false, buffer);
    if (backlog > 0) ::listen(fd, length);
    return fd;
  }
  const int fd = vsock_socket();
  const auto fail = [&](const char* syscall) {
    *error = failure(-errno, syscall, address);
    close_fd(fd);
    return -1;
  };
  if (fd < 0) return fail("socket");
  // Connections inherit it.
  set_buffers(fd, true, buffer);
  const sockaddr_vm bound = vsock_address(address.cid, address.port);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&bound), sizeof(bound)) != 0) return fail("bind");
  if (::listen(fd, length) != 0) return fail("listen");
  return fd;
}

StreamAddress stream_address_of(int fd) {
  union {
    sockaddr base;
    sockaddr_un local;
    sockaddr_vm vsock;
  } address{};
  socklen_t length = sizeof(address);
  StreamAddress result;
  if (::getsockname(fd, &address.base, &length) != 0) return result;
  if (address.base.sa_family == AF_VSOCK) {
    result.vsock = true;
    result.cid = address.vsock.svm_cid;
    result.port = address.vsock.svm_port;
  } else if (address.base.sa_family == AF_UNIX && length > offsetof(sockaddr_un, sun_path)) {
    const size_t most = length - offsetof(sockaddr_un, sun_path);
    result.path.assign(address.local.sun_path, ::strnlen(address.local.sun_path, most));
  }
  return result;
}

int64_t vsock_local_cid() {
  const int fd = ::open("/dev/vsock", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT || errno == ENXIO ? -ENODEV : -errno;
  unsigned cid = VMADDR_CID_ANY;
  const int result = ::ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid);
  const int code = -errno;
  close_fd(fd);
  if (result != 0) return code;
  return cid == VMADDR_CID_ANY ? -ENODEV : static_cast<int64_t>(cid);
}

}  // namespace vmring
