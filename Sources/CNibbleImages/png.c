#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "CNibbleImages.h"

typedef struct {
  const uint8_t *bytes;
  size_t left;
} source;

static void take(png_structp png, png_bytep out, png_size_t count) {
  source *from = png_get_io_ptr(png);
  if (count > from->left) png_error(png, "the file ends too early");
  memcpy(out, from->bytes, count);
  from->bytes += count;
  from->left -= count;
}

static void fail(png_structp png, png_const_charp message) {
  nibble_image *image = png_get_error_ptr(png);
  snprintf(image->message, sizeof image->message, "%s", message);
  longjmp(png_jmpbuf(png), 1);
}

static void warn(png_structp png, png_const_charp message) { (void)png, (void)message; }

nibble_image_result nibble_png_read(const uint8_t *bytes, size_t count, uint64_t max_pixels, nibble_image *image) {
  memset(image, 0, sizeof *image);
  source from = {bytes, count};
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, image, fail, warn);
  if (!png) return nibble_image_no_memory;
  png_infop info = png_create_info_struct(png);
  // Changed between setjmp and a jump.
  png_bytep *volatile rows = NULL;
  uint8_t *volatile pixels = NULL;
  volatile nibble_image_result result = nibble_image_broken;
  if (!info) {
    png_destroy_read_struct(&png, NULL, NULL);
    return nibble_image_no_memory;
  }
  if (setjmp(png_jmpbuf(png))) goto end;
  // Chunks beside the pixels are not kept, and none may take much memory.
  png_set_chunk_malloc_max(png, 1 << 20);
  png_set_chunk_cache_max(png, 16);
  png_set_read_fn(png, &from, take);
  png_read_info(png, info);
  uint32_t width = png_get_image_width(png, info), height = png_get_image_height(png, info);
  image->width = width, image->height = height;
  if ((uint64_t)width * height > max_pixels) {
    result = nibble_image_too_large;
    goto end;
  }
  png_set_strip_16(png);
  png_set_packing(png);
  png_set_expand(png);
  png_set_gray_to_rgb(png);
  png_set_strip_alpha(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  if (png_get_rowbytes(png, info) != (size_t)width * 3) png_error(png, "an unknown layout of pixels");
  pixels = malloc((size_t)width * height * 3);
  rows = malloc(sizeof *rows * height);
  if (!pixels || !rows) {
    result = nibble_image_no_memory;
    goto end;
  }
  for (uint32_t row = 0; row < height; row++) rows[row] = pixels + (size_t)row * width * 3;
  png_read_image(png, rows);
  png_read_end(png, NULL);
  result = nibble_image_good;
end:
  png_destroy_read_struct(&png, &info, NULL);
  free(rows);
  if (result == nibble_image_good) {
    image->pixels = pixels;
  } else {
    free(pixels);
  }
  return result;
}

void nibble_image_free(nibble_image *image) {
  free(image->pixels);
  image->pixels = NULL;
}
