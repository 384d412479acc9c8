import CNibbleSystem
import Glibc

/// Zeroed memory that stays as long as its owner: anonymous, or in a file without a name, whose pages the kernel may write out and drop.
package final class PagedMemory: @unchecked Sendable {
  package let bytes: UnsafeMutableRawBufferPointer
  /// nil for anonymous memory.
  private let descriptor: Int32?
  /// What was begun to be written and is to be dropped next.
  private var leaving: [Range<Int>] = []

  package static let page = Int(sysconf(Int32(_SC_PAGESIZE)))

  /// - Parameter folder: where the file lies; nil for anonymous memory
  /// - Throws: `.cannotWrite` for a folder that has no room for it
  package init(count: Int, in folder: String? = nil) throws {
    guard count > 0 else {
      (bytes, descriptor) = (UnsafeMutableRawBufferPointer(start: nil, count: 0), nil)
      return
    }
    guard let folder else {
      let start = mmap(nil, count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
      guard let start, start != MAP_FAILED else {
        throw NibbleError.cannotWrite("\(byteText(count)) of memory cannot be had: \(errorText(errno))")
      }
      (bytes, descriptor) = (UnsafeMutableRawBufferPointer(start: start, count: count), nil)
      return
    }
    let file = nibble_open_nameless(folder)
    guard file >= 0 else { throw NibbleError.cannotWrite("\(path: folder): no file can be made there: \(errorText(errno))") }
    // A page without a place on the disk would end the process when it is written out.
    let error = posix_fallocate(file, 0, off_t(count))
    guard error == 0 else {
      close(file)
      throw NibbleError.cannotWrite("\(path: folder): no room for \(byteText(count)) of paged states: \(errorText(error))")
    }
    let start = mmap(nil, count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
    guard let start, start != MAP_FAILED else {
      let reason = errorText(errno)
      close(file)
      throw NibbleError.cannotWrite("\(path: folder): paged states cannot be mapped: \(reason)")
    }
    (bytes, descriptor) = (UnsafeMutableRawBufferPointer(start: start, count: count), file)
  }

  deinit {
    if let start = bytes.baseAddress { munmap(start, bytes.count) }
    if let descriptor { close(descriptor) }
  }

  package var isPaged: Bool { descriptor != nil }

  /// Asks for the pages of `ranges`, which will be needed soon.
  package func prefetch(_ ranges: [Range<Int>]) {
    guard isPaged, let base = bytes.baseAddress else { return }
    for range in ranges.map(pages) { madvise(base + range.lowerBound, range.count, MADV_WILLNEED) }
  }

  /// Begins to write out the pages of `ranges`, and drops those of the call before.
  package func handBack(_ ranges: [Range<Int>]) {
    guard let descriptor else { return }
    let ranges = ranges.map(pages)
    for range in ranges { _ = nibble_write_back(descriptor, range.lowerBound, range.count, 0) }
    dropWritten()
    leaving = ranges
  }

  /// Waits until what was handed back is on the disk, and drops it.
  package func dropWritten() {
    guard let descriptor, let base = bytes.baseAddress else { return }
    for range in leaving {
      _ = nibble_write_back(descriptor, range.lowerBound, range.count, 1)
      _ = nibble_page_out(base + range.lowerBound, UInt(range.count))
    }
    leaving = []
  }

  /// Bytes of it that are in memory now.
  package var resident: Int {
    guard let start = bytes.baseAddress else { return 0 }
    var present = [UInt8](repeating: 0, count: ceilDivide(bytes.count, Self.page))
    guard mincore(start, bytes.count, &present) == 0 else { return bytes.count }
    return present.reduce(0) { $0 + Int($1 & 1) } * Self.page
  }

  /// Whole pages that hold `range`.
  private func pages(_ range: Range<Int>) -> Range<Int> { range.lowerBound / Self.page * Self.page..<range.upperBound }
}
