// WCAG contrast of the first element that a selector finds, with the first ground behind it that is opaque.
const element = document.querySelector(arguments[0]);
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const colour = (text) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = text;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
let ground = element;
while (ground && colour(getComputedStyle(ground).backgroundColor)[3] < 255) ground = ground.parentElement;
const behind = ground ? colour(getComputedStyle(ground).backgroundColor) : [255, 255, 255];
const [a, b] = [light(colour(getComputedStyle(element).color)), light(behind)].sort((x, y) => y - x);
return (a + 0.05) / (b + 0.05);
