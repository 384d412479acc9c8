import NibbleCore
import NibbleImages
import NibbleModels

/// A PNG or a JPEG; (choice 1) `preprocessor_config.json` with a picture to prepare; (choice 2) rows that name images; (choice 3) the
/// configuration of a residual network beside its weights.
func fuzzPictures(_ input: Input) throws {
  switch input.choice & 3 {
  case 0:
    let picture = try Picture(input.bytes, place: "p")
    expect(picture.width > 0 && picture.height > 0 && picture.pixels.count == 3 * picture.width * picture.height, "pixels fill the picture")
  case 1:
    let preparation = try ImagePreparation(JSON.parse(input.bytes), modelType: "resnet", place: "p")
    let made = try preparation.numbers(Picture(image, place: "p"), place: "p")
    expect(made.values.count == 3 * made.height * made.width, "numbers fill the image")
    expect(made.values.allSatisfy { !$0.isNaN }, "numbers are none that is no number")
  case 2:
    let list = try ImageList(Folder.write("rows.jsonl", input.bytes))
    expect(!list.items.isEmpty && list.items.allSatisfy { !$0.place.isEmpty }, "images have places")
  default:
    _ = Folder.write("config.json", input.bytes)
    _ = Folder.write("model.safetensors", weights)
    let model = try Model(Folder.path, threads: 1)
    expect(model.takesImages && (model.classCount ?? 1) > 0, "a residual network takes images")
  }
}

private let image = fixture("images/colour.png")
private let weights = fixture("images/small/model.safetensors")
