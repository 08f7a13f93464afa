/** What `vmring doctor` finds. */
import type { ErrorCode } from '../errors.js'

export interface Finding {
  check: string
  /** `note`: worth knowing, nothing wrong */
  status: 'ok' | 'note' | 'wrong'
  message: string
  /** the exact command, or the option of QEMU or the kernel */
  fix?: string
  /** what attach() throws for it */
  code?: ErrorCode
}
