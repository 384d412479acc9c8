/// libpng and libjpeg for Swift: they report errors by jumping, which never leaves these functions.
#ifndef CNIBBLEIMAGES_H
#define CNIBBLEIMAGES_H

#include <stddef.h>
#include <stdint.h>

/// What became of an image.
typedef enum {
  nibble_image_good = 0,
  nibble_image_broken = 1,     ///< damaged or cut off
  nibble_image_too_large = 2,  ///< more pixels than allowed
  nibble_image_no_memory = 3,
} nibble_image_result;

/// Pixels [height][width][3], red, green, blue, for `nibble_image_free`; NULL unless the result is good.
typedef struct {
  uint8_t *pixels;
  uint32_t width, height;
  /// What the library said, ending in a zero.
  char message[200];
} nibble_image;

/// Reads a PNG. Grey and palettes become colours, transparency is left out, of 16 bits the upper 8 are taken: what Pillow's
/// convert("RGB") makes of them.
nibble_image_result nibble_png_read(const uint8_t *bytes, size_t count, uint64_t max_pixels, nibble_image *image);

/// Reads a JPEG of one, three or four colours. Four are taken for Adobe's, which are inverted, as in Pillow.
nibble_image_result nibble_jpeg_read(const uint8_t *bytes, size_t count, uint64_t max_pixels, nibble_image *image);

void nibble_image_free(nibble_image *image);

#endif
