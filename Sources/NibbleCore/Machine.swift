import Glibc

/// What this machine has.
public enum Machine {
  /// Bytes of its memory.
  public static var memory: Int { Int(sysconf(Int32(_SC_PHYS_PAGES))) * Int(sysconf(Int32(_SC_PAGESIZE))) }
}
