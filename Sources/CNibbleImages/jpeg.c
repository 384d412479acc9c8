#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "CNibbleImages.h"

/// Scans of a progressive file beyond which it is made to cost time.
enum { max_scans = 500 };

typedef struct {
  struct jpeg_error_mgr manager;
  struct jpeg_progress_mgr progress;
  jmp_buf target;
  nibble_image *image;
} state;

static void fail(j_common_ptr info) {
  state *own = info->client_data;
  char message[JMSG_LENGTH_MAX];
  own->manager.format_message(info, message);
  snprintf(own->image->message, sizeof own->image->message, "%s", message);
  longjmp(own->target, 1);
}

/// What the library would make up pixels for is an error; other warnings are of no harm.
static void said(j_common_ptr info, int level) {
  if (level >= 0) return;
  switch (info->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_MUST_RESYNC: fail(info);
    default: break;
  }
}

static void silent(j_common_ptr info) { (void)info; }

static void monitor(j_common_ptr info) {
  state *own = info->client_data;
  if (!info->is_decompressor || ((j_decompress_ptr)info)->input_scan_number <= max_scans) return;
  snprintf(own->image->message, sizeof own->image->message, "more than %d scans", max_scans);
  longjmp(own->target, 1);
}

/// Adobe's inverted ink in `row` becomes light in `out`, as Pillow computes it.
static void light(const uint8_t *row, uint8_t *out, uint32_t width) {
  for (uint32_t x = 0; x < width; x++, row += 4, out += 3) {
    unsigned white = row[3];
    for (int c = 0; c < 3; c++) {
      unsigned product = (255 - row[c]) * white + 128;
      out[c] = (uint8_t)(white - (((product >> 8) + product) >> 8));
    }
  }
}

nibble_image_result nibble_jpeg_read(const uint8_t *bytes, size_t count, uint64_t max_pixels, nibble_image *image) {
  memset(image, 0, sizeof *image);
  struct jpeg_decompress_struct jpeg;
  memset(&jpeg, 0, sizeof jpeg);
  state own;
  memset(&own, 0, sizeof own);
  own.image = image;
  own.progress.progress_monitor = monitor;
  jpeg.err = jpeg_std_error(&own.manager);
  jpeg.client_data = &own;
  own.manager.error_exit = fail;
  own.manager.emit_message = said;
  own.manager.output_message = silent;
  // Changed between setjmp and a jump.
  uint8_t *volatile pixels = NULL, *volatile ink = NULL;
  volatile nibble_image_result result = nibble_image_broken;
  if (setjmp(own.target)) goto end;
  jpeg_create_decompress(&jpeg);
  jpeg.progress = &own.progress;
  jpeg_mem_src(&jpeg, bytes, count);
  jpeg_read_header(&jpeg, TRUE);
  uint32_t width = jpeg.image_width, height = jpeg.image_height;
  image->width = width, image->height = height;
  if ((uint64_t)width * height > max_pixels) {
    result = nibble_image_too_large;
    goto end;
  }
  jpeg.out_color_space = jpeg.num_components == 4 ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&jpeg);
  int channels = jpeg.num_components == 4 ? 4 : 3;
  if (jpeg.output_components != channels || jpeg.output_width != width || jpeg.output_height != height) {
    snprintf(image->message, sizeof image->message, "an unknown layout of pixels");
    goto end;
  }
  pixels = malloc((size_t)width * height * 3);
  ink = malloc((size_t)width * 4);
  if (!pixels || !ink) {
    result = nibble_image_no_memory;
    goto end;
  }
  while (jpeg.output_scanline < height) {
    uint8_t *to = pixels + (size_t)jpeg.output_scanline * width * 3;
    JSAMPROW row = channels == 4 ? ink : to;
    if (jpeg_read_scanlines(&jpeg, &row, 1) != 1) break;
    if (channels == 4) light(ink, to, width);
  }
  jpeg_finish_decompress(&jpeg);
  result = nibble_image_good;
end:
  jpeg_destroy_decompress(&jpeg);
  free(ink);
  if (result == nibble_image_good) {
    image->pixels = pixels;
  } else {
    free(pixels);
  }
  return result;
}
