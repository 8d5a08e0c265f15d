// The camera: shown in a <video>, and one picture of it as a blob.

const SENTENCES = {
  NotAllowedError: "The camera was not allowed. Allow it in the settings of this site, or choose a picture.",
  NotFoundError: "No camera was found. Choose a picture instead.",
  NotReadableError: "The camera is used by another program. Close that program, or choose a picture.",
};

/** Start the camera, facing away from the user where there is a choice. */
export async function startCamera(video) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("The camera needs an address that begins with https:// or http://localhost. Choose a picture.");
  }
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    await video.play();
  } catch (error) {
    stopCamera(video);
    throw new Error(SENTENCES[error.name] ?? `The camera failed (${error.message || error.name}). Choose a picture.`);
  }
}

/** Stop the camera and switch its light off. */
export function stopCamera(video) {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
}

/** Return the picture that the camera shows. */
export async function takePicture(video) {
  if (!video.videoWidth) {
    throw new Error("The camera gives no picture yet. Wait a moment and try again.");
  }
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
